"""`plan`: a program followed over rows on stand-ins, and what that says of the run."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import structs

from shoal.backends.prices import Price
from shoal.batch.rows import Input, Row
from shoal.batch.runner import RowProgram
from shoal.errors import UsageError
from shoal.planning.dry_run import Kept
from shoal.planning.figures import Figure, ModelPlan, Pilot, Piloted, Plan, total, whole
from shoal.planning.following import follow_rows
from shoal.planning.narrowing import measured_seconds, narrowed, narrowed_calls
from shoal.planning.notes import notes
from shoal.planning.pilot import Measured, rows_for, run_pilot
from shoal.planning.predicting import FEWEST_ROWS
from shoal.planning.reckoning import Formulas, Reckoning, priced
from shoal.planning.sharing import Rates, dollar_rates, shared_total
from shoal.planning.times import assumed_seconds, limited
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
    """What `program` will cost over `rows`, which are read several times: a list, or an `Input` or its shard.

    `models` are those that the program asks: what their techniques may cost is then known by the catalogue's formulas.
    `steady` says that the program itself asks the same of them whatever is replied, as a template does; otherwise its
    figures are those of two dry runs. `kept` look draws of earlier runs up, which cost nothing, and `done` are the
    numbers of rows that are finished. `prices` stand before those of the library. Nothing is asked of any model and
    nothing is written, except that a `pilot` runs some rows for real.

    Raises UsageError or Unsupported where the run could not begin.
    """
    numbers = [number for number, _ in (rows.numbered() if isinstance(rows, Input) else enumerate(rows))]
    finished = set(done)
    left = [number for number in numbers if number not in finished]
    ended = len(numbers) - len(left)
    measured = None
    if pilot is not None and left:
        chosen = rows_for(pilot, left)
        bases = (await follow_rows(program, rows, chosen, kept)).bases
        measured = await run_pilot(program, rows, chosen, bases)
        finished |= set() if measured.again else set(chosen)
        left = [number for number in left if number not in finished]
    report = measured.report if measured is not None else None
    if not left:
        return _finished(len(numbers), ended, report)
    if measured is not None and len(measured.rows) < FEWEST_ROWS:
        raise UsageError(f"{len(measured.rows)} rows of the pilot succeeded: too few to predict the others from")
    told = await follow_rows(program, rows, left, kept)
    formulas = Formulas(models, told.bases, [*told.rows, *told.long_rows])
    reckoning = Reckoning(told, formulas, len(left), steady=steady)
    figures = await _figures(reckoning, measured, prices or {})
    return structs.replace(figures, rows=len(numbers), done=ended, left=len(left), pilot=report)


async def _figures(reckoning: Reckoning, measured: Measured | None, prices: Mapping[str, Price]) -> Plan:
    """The plan of what is left, by itself."""
    bases, left = reckoning.told.bases, reckoning.left
    models = [await reckoning.model(base) for base in bases.values()]
    calls = reckoning.calls().within(total(model.calls for model in models))
    path = reckoning.path()
    if measured is not None:
        calls = narrowed_calls(calls, measured.values("calls"), left, sum(model.kept for model in models))
        models = [narrowed(model, measured, left) for model in models]
    models = [priced(model, bases[model.model], prices) for model in models]
    steps = reckoning.steps(models, path)
    if measured is None:
        seconds = assumed_seconds(models, steps, bases)
    else:
        seconds = measured_seconds(measured, left, models, path, bases)
    sums = _sums(calls, models, None if measured or reckoning.fixed else reckoning.rates)
    return Plan(
        rows=left,
        done=0,
        left=left,
        followed=len(reckoning.told.rows),
        calls=calls,
        wire_requests=_wire_requests(reckoning, calls, models),
        path=path,
        steps=steps,
        prompt_tokens=sums[0],
        completion_tokens=sums[1],
        seconds=seconds and limited(seconds, models, bases),
        dollars=sums[2],
        models=tuple(models),
        kept=sum(model.kept for model in models),
        notes=tuple(notes(reckoning, models, seconds, prices, measured)),
    )


def _wire_requests(reckoning: Reckoning, calls: Figure, models: Sequence[ModelPlan]) -> Figure:
    """Of all models together: no more than there are calls, and enough for those that there are at the least."""
    summed = total(model.wire_requests for model in models)
    if reckoning.source != "formula":
        return summed
    return summed.within(whole(Figure(reckoning.fewest_wire_requests(calls), calls.most, summed.source)))


def _sums(
    calls: Figure, models: Sequence[ModelPlan], rates: Mapping[str, Rates] | None
) -> tuple[Figure, Figure, Figure | None]:
    """Prompt tokens, completion tokens and dollars of all models together.

    With `rates`, replies decide which model is asked: then the models' figures do not add up to the most.
    """
    dollars = [model.dollars for model in models if model.dollars is not None]
    priced = len(dollars) == len(models)
    prompts, completions = [model.prompt_tokens for model in models], [model.completion_tokens for model in models]
    if rates is None or len(models) < 2:
        return total(prompts), total(completions), total(dollars) if priced else None
    each, own = [model.calls for model in models], [rates[model.model] for model in models]
    return (
        whole(shared_total(calls, each, [rate.prompt for rate in own], prompts)),
        whole(shared_total(calls, each, [rate.completion for rate in own], completions)),
        shared_total(calls, each, list(map(dollar_rates, models, own)), dollars) if priced else None,
    )


def _finished(rows: int, done: int, pilot: Piloted | None) -> Plan:
    """Of a run that is done."""
    nothing = _NOTHING
    return Plan(
        rows=rows,
        done=done,
        left=0,
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
        pilot=pilot,
        notes=("nothing is left to do",),
    )
