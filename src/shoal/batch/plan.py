"""A prompt batch at work: what is asked of which model, in order, and every outcome as a record."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from time import monotonic

from msgspec import Struct

from shoal.batch.choices import Batch, chosen, unanswered
from shoal.batch.forms import Args, Form, check_arguments
from shoal.batch.rows import Row
from shoal.batch.runner import Progress
from shoal.batch.settings import Settings
from shoal.batch.spread import Models, Spreadable
from shoal.errors import StoreError, UsageError
from shoal.runtime import budget as budgets
from shoal.runtime import replay, scope
from shoal.runtime.budget import Budget
from shoal.runtime.concurrency import gather, map_bounded
from shoal.runtime.model import Model
from shoal.runtime.replay import Recorder
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques.opening import names, refuse_unpriced


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

    def example(self) -> Request:
        """The first prompt, to see whether a model can be asked such a thing."""
        return self.forms[0].request(self.forms[0].fill(self.sets[0]))

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
    models = Models(queries_per_batch)
    found: dict[int, list[Row]] = {}
    progress = Progress(plan.count, started=monotonic())
    try:
        questions = _questions(plan, models, models.choose(model, plan.settings, plan.example()))
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


def _questions(plan: Plan, models: Models, turn: Iterator[Model]) -> Iterator[Question]:
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
        refuse_unpriced(budgets.current.get(), model)
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
