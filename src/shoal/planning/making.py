"""`plan`: a program followed over rows on stand-ins, and what that says of the run."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from shoal.batch.rows import Row
from shoal.batch.runner import RowProgram
from shoal.planning.dry_run import Kept
from shoal.planning.figures import Figure, ModelPlan, Pilot, Plan, total
from shoal.planning.following import follow_rows
from shoal.planning.prices import NoPrice, Price, quote
from shoal.planning.reckoning import Formulas, Reckoning
from shoal.planning.times import seconds_of
from shoal.runtime.model import Model

_NOTHING = Figure(0, 0, "exact")


async def plan(
    program: RowProgram,
    rows: Iterable[Row],
    *,
    models: Sequence[Model] = (),
    steady: bool = True,
    kept: Sequence[Kept] = (),
    done: Collection[int] = (),
    prices: Mapping[str, Price] | None = None,
    pilot: Pilot | None = None,
) -> Plan:
    """What `program` will cost over `rows`, which are read several times: a list, or an `Input`.

    `models` are those that the program asks: what their techniques may cost is then known by the catalogue's formulas.
    `steady` says that the program itself asks the same of them whatever is replied, as a template does; otherwise its
    figures are those of two dry runs. `kept` look draws of earlier runs up, which cost nothing, and `done` are the
    numbers of rows that are finished. `prices` stand before those of the library. Nothing is asked of any model and
    nothing is written, except that a `pilot` runs some rows for real.

    Raises UsageError or Unsupported where the run could not begin.
    """
    numbers = [number for number, _ in enumerate(rows)]
    left = [number for number in numbers if number not in done]
    if not left:
        return _finished(len(numbers))
    told = await follow_rows(program, rows, left, kept)
    formulas = Formulas(models, told.brief.bases | told.long.bases, [*told.rows, *told.long_rows])
    reckoning = Reckoning(told, formulas, len(left), steady=steady)
    each = [await reckoning.model(base, prices or {}) for base in reckoning.bases.values()]
    path = reckoning.path()
    steps = reckoning.steps(each, path)
    seconds = seconds_of(each, steps, reckoning.bases)
    return Plan(
        rows=len(numbers),
        done=len(numbers) - len(left),
        followed=len(told.rows),
        calls=_within_all(reckoning.calls(), total(model.calls for model in each)),
        wire_requests=total(model.wire_requests for model in each),
        path=path,
        steps=steps,
        prompt_tokens=total(model.prompt_tokens for model in each),
        completion_tokens=total(model.completion_tokens for model in each),
        seconds=seconds,
        dollars=_dollars(each),
        models=tuple(each),
        kept=sum(model.kept for model in each),
        notes=tuple(_notes(reckoning, each, prices or {}, seconds)),
    )


def _finished(rows: int) -> Plan:
    """Of a run that is done."""
    nothing = _NOTHING
    return Plan(
        rows=rows,
        done=rows,
        followed=0,
        calls=nothing,
        wire_requests=nothing,
        path=nothing,
        steps=nothing,
        prompt_tokens=nothing,
        completion_tokens=nothing,
        seconds=nothing,
        dollars=nothing,
        models=(),
        notes=("every row is finished: nothing is left to do",),
    )


def _within_all(calls: Figure, summed: Figure) -> Figure:
    """The calls of all models: no more than what each may get comes to, and no less."""
    return calls.within(summed)


def _dollars(models: Sequence[ModelPlan]) -> Figure | None:
    known = [model.dollars for model in models if model.dollars is not None]
    return total(known) if len(known) == len(models) else None


def _notes(
    reckoning: Reckoning, models: Sequence[ModelPlan], prices: Mapping[str, Price], seconds: Figure | None
) -> Iterable[str]:
    failed = [row.error for row in reckoning.told.rows if row.error is not None]
    if failed:
        first = f"{type(failed[0]).__name__}: {failed[0]}"
        yield f"{len(failed)} rows could not be followed to their end on stand-in replies ({first}); they may cost more"
    if reckoning.scale > 1:
        yield f"{len(reckoning.told.rows)} rows, spread over the input, stand for all"
    if reckoning.source == "dry run":
        yield "what the program asks may depend on replies: a pilot tells more"
    if any(not model.tokenizer for model in models):
        yield "prompt tokens are estimated at four characters each"
    for base in reckoning.bases.values():
        found = quote(base, prices)
        if isinstance(found, NoPrice):
            yield found.reason
    if seconds is None:
        yield "how fast a model on this machine is, a pilot tells"
