"""A prompt batch at work: what is asked of which model, in order, and every outcome as a record."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from time import monotonic

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.batch.choices import Batch, chosen, unanswered
from shoal.batch.forms import Args, Form, check_arguments
from shoal.batch.rows import Row
from shoal.batch.runner import Progress
from shoal.batch.settings import Settings
from shoal.batch.spread import Spreadable, turns, weighted
from shoal.errors import StoreError, UsageError
from shoal.runtime import budget as budgets
from shoal.runtime import replay, scope
from shoal.runtime.backend import refuse_unsupported
from shoal.runtime.budget import Budget
from shoal.runtime.concurrency import gather, map_bounded
from shoal.runtime.model import Model
from shoal.runtime.replay import Recorder
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques.opening import bases, names, open_model

_LEAST_WINDOW, _WIDEST_WINDOW = 64, 8192


class Plan:
    """Templates x argument sets x settings, checked. UsageError says what does not fit before anything is opened."""

    def __init__(
        self, forms: Sequence[Form], sets: Sequence[Args], settings: Sequence[Settings], *, args_name: str, zipped: bool
    ) -> None:
        check_arguments(forms, sets, args_name)
        prompts = len(forms) * len(sets)
        if zipped and len(settings) != prompts:
            raise UsageError(f"zip_model_args: {len(settings)} model_args for {prompts} prompts; give one each")
        self.forms = forms
        self.sets = sets
        self.settings = settings
        self.args_name = args_name
        self.zipped = zipped
        self.count = prompts if zipped else prompts * len(settings)

    def __iter__(self) -> Iterator[tuple[Form, Args, Settings]]:
        """In order: template, arguments, settings."""
        zipped = cycle(self.settings)
        for form in self.forms:
            for args in self.sets:
                for settings in [next(zipped)] if self.zipped else self.settings:
                    yield form, args, settings


class Question(Struct, frozen=True):
    """One prompt put to one model n times. `said` is what each of its records says of it."""

    number: int
    model: Model
    endpoint: str
    request: Request
    n: int
    said: Row


async def ask_all(
    plan: Plan,
    model: Spreadable | None,
    queries_per_batch: int | None,
    budget: Budget | None,
    on_progress: Callable[[Progress], None] | None,
) -> Batch:
    """Ask everything planned. Raises UsageError before the first call, StoreError where draws cannot be kept."""
    if not plan.count:
        return Batch([], Usage())
    if queries_per_batch is not None and queries_per_batch < 1:
        raise UsageError(f"queries_per_batch must be at least 1, not {queries_per_batch}")
    models = _Models(queries_per_batch)
    found: dict[int, list[Row]] = {}
    progress = Progress(plan.count, started=monotonic())
    try:
        questions = _questions(plan, models, models.choose(plan, model))
        with scope.setting(budgets.current, budget or budgets.current.get()):
            async for number, records, usage in map_bounded(_answered, questions, models.window()):
                found[number] = records
                progress.finished += 1
                progress.failed += any(record["error"] for record in records)
                progress.usage = progress.usage + usage
                if on_progress is not None:
                    on_progress(progress)
    finally:
        await models.aclose()
    return Batch([record for number in range(plan.count) for record in found[number]], progress.usage)


class _Models:
    """The models of one batch: those named by a spec are opened once, and closed at its end."""

    def __init__(self, queries_per_batch: int | None) -> None:
        self._queries_per_batch = queries_per_batch
        self._opened: dict[str, Model] = {}
        self._used: dict[int, Model] = {}

    def open(self, model: Model | str) -> Model:
        if isinstance(model, str):
            if model not in self._opened:
                self._opened[model] = open_model(model, queries_per_batch=self._queries_per_batch)
            model = self._opened[model]
        elif not callable(model):
            raise UsageError(f"model: expected a spec or a Model, found {type(model).__name__}")
        elif self._queries_per_batch is not None:
            raise UsageError(f"queries_per_batch is for models given by their spec; open {model!r} with it instead")
        self._used[id(model)] = model
        return model

    def choose(self, plan: Plan, model: Spreadable | None) -> Iterator[Model]:
        """The models in turn, for the settings that name none. Checks that each can do what it will be asked."""
        named = {settings.model for settings in plan.settings}
        if model is not None and named != {None}:
            raise UsageError("give model, or 'model' in model_args, not both")
        shares = weighted("local" if model is None else model, self.open) if None in named else []
        form, args = plan.forms[0], plan.sets[0]
        request = form.request(form.fill(args))
        for settings in plan.settings:
            for candidate in [self.open(settings.model)] if settings.model else [model for model, _ in shares]:
                if isinstance(candidate, BaseModel):
                    refuse_unsupported(settings.of(request), candidate.backend.capabilities, candidate.name)
        return (shares[turn][0] for turn in turns([weight for _, weight in shares]))

    def window(self) -> int:
        """Prompts under way at once: enough to fill every model's requests."""
        wide = 0
        for base in bases(list(self._used.values())):
            wide += 2 * base.scheduler.max_in_flight * base.backend.capabilities.max_batch
        return min(max(wide, _LEAST_WINDOW), _WIDEST_WINDOW)

    async def aclose(self) -> None:
        for base in bases(list(self._opened.values())):
            await base.aclose()


def _questions(plan: Plan, models: _Models, turn: Iterator[Model]) -> Iterator[Question]:
    for number, (form, args, settings) in enumerate(plan):
        model = models.open(settings.model) if settings.model else next(turn)
        filled = form.fill(args)
        said = {
            form.kind: filled,
            f"{form.kind}_raw": form.raw,
            plan.args_name: {} if args is None else args,
            "model_args": settings.resolved(repr(model)),
            "model_args_raw": settings.given,
        }
        request = settings.of(form.request(filled))
        yield Question(number, model, names(model)[0], request, settings.n, said)


async def _answered(question: Question) -> tuple[int, list[Row], Usage]:
    """The question's number, its records, and what they cost."""
    with scope.setting(scope.age, question.number):
        draws = await gather(*(_draw(question, i) for i in range(question.n)))
    records = []
    for i, (outcome, _) in enumerate(draws):
        if isinstance(outcome, Completion):
            records.append(chosen(question.said, i, outcome, question.endpoint))
    failures = [(outcome, spent) for outcome, spent in draws if not isinstance(outcome, Completion)]
    if failures:
        lost = total(spent for _, spent in failures)
        records.append(unanswered(question.said, failures[0][0], question.endpoint, lost))
    return question.number, records, total(spent for _, spent in draws)


async def _draw(question: Question, i: int) -> tuple[Completion | Exception, Usage]:
    """The outcome of one draw, and what it cost."""
    meter = _Meter(replay.current.get())
    try:
        with scope.setting(replay.current, meter):
            completion = await question.model(question.request.draw(i))
    except (StoreError, asyncio.CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever befalls a prompt is that prompt's record, and no other's
        return error, meter.usage
    return completion, completion.usage


class _Meter:
    """Counts what a draw's calls cost, so that the totals also hold those of a draw that fails."""

    def __init__(self, outer: Recorder | None) -> None:
        self.outer = outer
        self.usage = Usage()

    def replay(self, identity: str, request: Request) -> Completion | None:
        known = self.outer.replay(identity, request) if self.outer else None
        if known is not None:
            self.usage = self.usage + known.usage
        return known

    async def record(self, identity: str, request: Request, completion: Completion) -> None:
        self.usage = self.usage + completion.usage
        if self.outer:
            await self.outer.record(identity, request, completion)
