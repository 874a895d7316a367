"""What a reader of a plan should know beside its figures, one sentence each."""

from collections.abc import Iterator, Mapping, Sequence

from shoal.backends.prices import NoPrice, Price, quote
from shoal.planning.figures import Figure, ModelPlan
from shoal.planning.pilot import Measured
from shoal.planning.reckoning import Reckoning
from shoal.runtime.limits import USUAL_COMPLETION


def notes(
    reckoning: Reckoning,
    models: Sequence[ModelPlan],
    seconds: Figure | None,
    prices: Mapping[str, Price],
    measured: Measured | None,
) -> Iterator[str]:
    yield from _of_rows(reckoning)
    yield from _of_assumptions(reckoning, models, seconds) if measured is None else _of_pilot(measured, seconds)
    for base in reckoning.told.bases.values():
        found = quote(base, prices)
        if isinstance(found, NoPrice):
            yield found.reason


def _of_rows(reckoning: Reckoning) -> Iterator[str]:
    rows = reckoning.told.rows
    if reckoning.scale > 1:
        yield f"{len(rows):,} rows, spread over the input, stand for all {round(reckoning.scale * len(rows)):,}"
    failed = [row.error for row in rows if row.error is not None]
    if failed:
        first = f"{type(failed[0]).__name__}: {failed[0]}"[:200]
        some = "1 row" if len(failed) == 1 else f"{len(failed):,} rows"
        yield f"{some} could not be followed to the end on stand-in replies, and may cost more ({first})"


def _of_assumptions(reckoning: Reckoning, models: Sequence[ModelPlan], seconds: Figure | None) -> Iterator[str]:
    if reckoning.source == "dry run":
        yield "what the program asks may depend on replies: a pilot tells more"
    if any(model.prompt_tokens.source == "assumption" and not model.tokenizer for model in models):
        yield "prompt tokens are estimated at four characters each"
    if any(model.completion_tokens.source == "assumption" for model in models):
        yield f"a reply without a limit of its own is taken to have up to {USUAL_COMPLETION} tokens"
    if seconds is None:
        yield "how long a model on this machine takes, only a pilot tells"


def _of_pilot(measured: Measured, seconds: Figure | None) -> Iterator[str]:
    if measured.again:
        yield "without a cache the pilot's rows are paid for again"
    if measured.report.failed:
        yield f"{measured.report.failed} rows of the pilot failed, and the prediction is without them"
    if seconds is None:
        yield "how long it takes is not said: draws of the pilot were in the cache"
