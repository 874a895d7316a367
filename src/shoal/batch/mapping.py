"""`shoal.map`: a model or a program over many items from Python, with what `shoal run` guarantees."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

from msgspec import UNSET, UnsetType, structs

from shoal.backends.loop import run
from shoal.batch.allocation import Allocation, allocated_identity, allocation_for
from shoal.batch.directory import RunDirectory, write_lines
from shoal.batch.programs import RowFunction
from shoal.batch.records import Record, decode, encode
from shoal.batch.rows import Input, Row
from shoal.batch.runner import BatchRun, Judge, Progress, RowProgram, window_for
from shoal.batch.scores import as_score
from shoal.batch.tables import items_of
from shoal.batch.waves import by_batch_api, wave_settings
from shoal.errors import UsageError, refuse_unknown
from shoal.prompting.answers import extract
from shoal.prompting.template import Template
from shoal.runtime import registry, replay, scope
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.runtime.program import Program
from shoal.runtime.scratch import scratch_directory
from shoal.runtime.types import Completion, Request, SamplingParams
from shoal.techniques.opening import bases, identities, names, opened, refuse_unpriced

if TYPE_CHECKING:
    from shoal.backends.waves import WaveSettings

Score = Callable[[Completion, Row], float | Awaitable[float]]


class Rater(Protocol):
    """Rates answers against a column of their rows, as the scorers do that `open_scorer` gives."""

    @property
    def need(self) -> Callable[[], Awaitable[None]]: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def against(self, column: str | None) -> Judge: ...

    def check_rows(self, rows: Iterable[Row], column: str | None) -> None: ...


class MapOptions(TypedDict, total=False):
    """How `map` runs.

    model        what a program's built-ins ask (a Model or a spec); default the model registered where `map` is called
    template     of a model: how an item's columns become the prompt
    params       of a model: how to sample
    run_dir      where every finished call is kept, so that the same call continues a run that was stopped
    budget       what may be spent
    allocate     of a model whose outermost technique votes: share the budget (tokens or calls) out, so that undecided
                 items get the samples that settled ones do without
    replay       ask nothing: every draw must be kept already, or NotCached names the first that is not
    trace        keep each item's call tree in `run_dir`, for `shoal trace`
    score        rates each answer from 0.0 to 1.0: a function of the completion and the row, plain or async, or
                 `open_scorer("number")`
    target       of such a scorer: the column with the expected answer
    on_progress  called after each row
    batch_api    calls travel by the provider's batch API, at half the price, and `run_dir` keeps what was sent: the
                 same call collects it; True, or WaveSettings
    """

    model: Model | str | None
    template: str | None
    params: SamplingParams | None
    run_dir: Path | str | None
    budget: Budget | None
    allocate: bool
    replay: bool
    trace: bool
    score: Score | Rater | None
    target: str | None
    on_progress: Callable[[Progress], None] | None
    batch_api: "bool | WaveSettings"


def map(
    subject: Model | str | Callable[..., Program[Any]], items: Iterable[Any] | Any, **options: Unpack[MapOptions]
) -> list[Record]:
    """Ask a model about every item, or run a program on it; one Record each, in order, failures included.

    `items` are a list, the path of a data file, or a table (pandas, polars, Arrow, Hugging Face). For a model (or the
    spec of one) they are texts, or rows whose columns `template` names. For a function made with `@program`, or a
    JinjaPrompt, a row's columns are the arguments, a tuple gives them by place, and any other item is the first.

    At most a window of items is held at once. With `run_dir` every finished call is on disk before it counts: the same
    call continues a run that was stopped, and refuses one of other items, options or a changed program (RunError). A
    `budget` that is spent leaves records with a BudgetExceeded error. Works in scripts and in Jupyter.
    """
    return run(amap(subject, items, **options))


async def amap(
    subject: Model | str | Callable[..., Program[Any]], items: Iterable[Any] | Any, **options: Unpack[MapOptions]
) -> list[Record]:
    """`map` for a program that is already asynchronous."""
    refuse_unknown("map", options, MapOptions)
    if options.get("trace") and options.get("run_dir") is None:
        raise UsageError("map: trace=True needs run_dir=, where the call trees are kept")
    if options.get("batch_api") and options.get("run_dir") is None:
        raise UsageError("map: batch_api=True needs run_dir=, where what was sent is kept")
    if hasattr(subject, "__shoal_program__") or hasattr(subject, "render"):
        return await _map_program(RowFunction(subject), items, options)
    if options.get("model") is not None:
        raise UsageError("map: model= is for programs; give the model alone, or decorate the function with @program")
    form = Template(options.get("template") or "{prompt}")
    params = options.get("params") or SamplingParams()

    rows = ({"prompt": item} if isinstance(item, str) else item for item in _listed(items))
    async with opened(subject) as model:  # type: ignore[arg-type]
        return await _map(model, asking(model, form, params), rows, options, {"template": form.text, "params": params})


def asking(model: Model, form: Template, params: SamplingParams) -> RowProgram:
    """The program that asks a model one thing of each row."""

    async def ask(row: Row) -> Completion:
        return await model(structs.replace(Request.of(form.fill(row)), params=params))

    return ask


async def _map_program(function: RowFunction, items: Any, options: MapOptions) -> list[Record]:
    for name in ("template", "params", "allocate"):
        if options.get(name):
            raise UsageError(f"map: {name}= is for models; a program says itself what it asks")
    identity = {"program": function.name, "source": function.version}
    rows = (function.row(item) for item in _listed(items))
    async with opened(options.get("model") or registry.current().model) as model:
        with registry.using(model):
            return await _map(model, function, rows, options, identity)


async def _map(
    model: Model, program: RowProgram, items: Iterable[Row], options: MapOptions, identity: dict[str, Any]
) -> list[Record]:
    score, target, run_dir = options.get("score"), options.get("target"), options.get("run_dir")
    rater = rater_of(score, target)
    refuse_unpriced(options.get("budget"), model)
    judge = rater.against(target) if rater else judge_of(score)
    with ExitStack() as scopes:
        files = scopes.enter_context(scratch_directory())
        place = Path(run_dir) if run_dir is not None else files / "run"
        rows = _kept(items, files)
        if isinstance(program, RowFunction):
            program.check(rows.columns, "an item")
        base, technique = names(model)
        identity = identity | {"technique": technique, "model": identities(model)}
        if rater:
            rater.check_rows(rows, target)
            await rater.need()
            identity |= {"score": rater.identity, "target": target}
        allocation = _allocation(model, rows, rater, options)
        if allocation:
            identity |= allocated_identity(allocation, rows)
        if options.get("replay"):
            scopes.enter_context(scope.setting(replay.offline, True))
        directory = scopes.enter_context(RunDirectory(place, identity, rows))
        technique = getattr(program, "name", technique)
        waves = wave_settings(options.get("batch_api", False))
        window = waves.rows if waves else window_for(bases(model))
        batch = BatchRun(directory, rows, model=base, technique=technique, window=window, judge=judge)
        batch.on_progress = options.get("on_progress")
        batch.traced = options.get("trace", False)
        batch.allocation = allocation
        async with by_batch_api([model, *getattr(rater, "models", ())], directory, waves):
            await batch.execute(program, options.get("budget"))
        batch.write_output(place / "output.jsonl")
        return [decode(line) for line in batch.lines()]


def _allocation(model: Model, rows: Input, rater: Rater | None, options: MapOptions) -> Allocation | None:
    if not options.get("allocate"):
        return None
    return allocation_for(model, rows, options.get("budget"), getattr(rater, "models", ()))


def rater_of(score: Score | Rater | None, target: str | None) -> Rater | None:
    """The scorer, where `score` is one and no plain function."""
    if score is not None and not callable(score):
        if hasattr(score, "against"):
            return score
        raise UsageError("map: score= is a function of completion and row, or a scorer: shoal.open_scorer('number')")
    if target is not None:
        raise UsageError("map: target= is for a scorer: score=shoal.open_scorer('number')")
    return None


def judge_of(score: Any) -> Judge:
    """The short answer of a completion, and what the user's own function makes of it."""

    async def judge(completion: Completion, row: Row) -> tuple[str | None, float | UnsetType]:
        answer = completion.answer or extract(completion.text)
        if not callable(score):
            return answer, UNSET
        value = score(completion, row)
        value = await value if inspect.isawaitable(value) else value
        try:
            return answer, as_score(value)
        except ValueError as error:
            raise UsageError(f"map: score= {error}") from None

    return judge


def _listed(items: Any) -> Iterable[Any]:
    if isinstance(items, str):
        raise UsageError("items: expected a list of texts or rows, found one text; give a file as a Path")
    return items_of(items)


def _kept(items: Iterable[Row], scratch: Path) -> Input:
    """The items in a file, so that any number of them can be read more than once in bounded memory."""
    path = scratch / "items.jsonl"
    write_lines(path, (encode(item) for item in items))
    return Input(path, label="items")
