"""`shoal.evolution.breed`: prompts bred for a task, kept on disk as they come, compared with the seed in the end."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any, TypedDict, Unpack

from msgspec import Struct, structs

from shoal.backends.loop import run as run_program
from shoal.errors import BudgetExceeded, UsageError, refuse_unknown
from shoal.evaluation.comparing import statistics
from shoal.evolution import lists
from shoal.evolution.breeder import Breeder
from shoal.evolution.draws import Draws
from shoal.evolution.embedding import embedder
from shoal.evolution.folder import RunFolder
from shoal.evolution.generation import Generation, best_of
from shoal.evolution.held_out import Comparison, compare, refuse_seen, split
from shoal.evolution.identity import options_of
from shoal.evolution.planning import affordable, plan_calls
from shoal.evolution.progress import Progress
from shoal.evolution.queries import Queries
from shoal.evolution.settings import Settings
from shoal.evolution.statistics import GenerationStats, stats_of, variety
from shoal.evolution.steps import Steps
from shoal.evolution.surroundings import Breeding, Embed
from shoal.evolution.task import Task
from shoal.evolution.unit import Scored
from shoal.runtime import budget as budgets
from shoal.runtime import registry, replay, scope
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.runtime.scratch import scratch_directory
from shoal.runtime.types import Usage
from shoal.techniques.opening import opened, refuse_unpriced

_FINAL = 1 << 40  # the owner of draws on held-out rows: no generation has this number


class BreedOptions(TypedDict, total=False):
    """How `breed` runs.

    run_dir           the run's folder: the same call continues a run that was stopped
    budget            what may be spent; of calls, those for the held-out rows are put aside
    plateau           stop when the mean fitness has not risen above its best for so many generations
    target            stop when a unit has this fitness
    rollouts          questions that may be put to units, held-out rows aside; decides how many generations there are
    split             hold out half of the rows where the task holds none out; default True
    queries           templates by name, in place of the paper's
    mutation_prompts  what founders' mutation prompts are drawn from; default the paper's
    thinking_styles   what founders and hyper-mutations begin from; default the paper's
    embed             from texts to vectors, for likeness and diversity; default `embedder()`
    about             further facts for the folder's _config.json
    on_open           called with the folder when it is this process's own, before anything is asked
    on_progress       called after each unit that is scored, and each generation
    on_generation     called after each generation, with its numbers
    """

    run_dir: Path | str | None
    budget: Budget | None
    plateau: int | None
    target: float | None
    rollouts: int | None
    split: bool
    queries: Queries | Mapping[str, str] | None
    mutation_prompts: Sequence[str] | None
    thinking_styles: Sequence[str] | None
    embed: Embed | None
    about: Mapping[str, Any] | None
    on_open: Callable[[Path], None] | None
    on_progress: Callable[[Progress], None] | None
    on_generation: Callable[[Generation, GenerationStats], None] | None


class Result(Struct, frozen=True):
    """What was bred.

    `best` is the fittest unit of the whole run, `history` every complete generation with its `stats`. `ended` says why:
    "generations" (all of them), "plateau", "target", "budget" or "interrupted". `comparison` with the seed prompt is
    None where no rows are held out, or where the budget or an interruption left it undone. `usage` is all that the run
    has cost, by earlier processes too. `rollouts` are the questions put to units, whatever came of them: what runs of
    different optimizers are compared at. Held-out rows are not among them.
    """

    best: Scored
    history: tuple[Generation, ...]
    stats: tuple[GenerationStats, ...]
    ended: str
    usage: Usage
    comparison: Comparison | None = None
    run_dir: Path | None = None
    rollouts: int = 0

    @property
    def prompts(self) -> tuple[str, ...]:
        """The best unit's task prompts."""
        return self.best.unit.task_prompts


def breed(
    task: Task, *, model: Model | str, settings: Settings | None = None, **options: Unpack[BreedOptions]
) -> Result:
    """Breed prompts for a task on a model (or the spec of one).

    With `run_dir` every finished call is on disk before it counts: the same call continues a run that was stopped or
    killed, repeats no finished call, and ends as if it had not been; RunError names the first option that differs. A
    `budget` that is spent ends the run at the last complete generation, and BudgetExceeded is raised only where there
    is none. Works in scripts and in Jupyter.
    """
    return run_program(abreed(task, model=model, settings=settings, **options))


async def abreed(
    task: Task, *, model: Model | str, settings: Settings | None = None, **options: Unpack[BreedOptions]
) -> Result:
    """`breed` for a program that is already asynchronous."""
    refuse_unknown("breed", options, BreedOptions)
    async with opened(model) as known:
        return await Evolution(task, known, settings or Settings(), **options).execute()


class Evolution:
    """One run: `execute` it, look at its `progress`, `interrupt` it."""

    def __init__(self, task: Task, model: Model, settings: Settings, **options: Unpack[BreedOptions]) -> None:
        task = split(task, settings.seed) if options.get("split", True) else task
        queries = options.get("queries")
        queries = queries if isinstance(queries, Queries) else Queries(queries)
        styles = options.get("thinking_styles") or lists.thinking_styles()
        prompts = options.get("mutation_prompts") or lists.mutation_prompts()
        if (rollouts := options.get("rollouts")) is not None:
            settings = structs.replace(settings, generations=affordable(task, settings, rollouts))
        self.run = Breeding(task, settings, queries, prompts, styles, options.get("embed") or embedder())
        self._refuse_one_question()
        refuse_seen(task)
        self.model = model
        self.limit = options.get("budget") or Budget()
        refuse_unpriced(self.limit, model)
        self.options = options
        self.interrupted = False
        self._progress = Progress(settings.generations, settings.population_size, started=monotonic())
        self._draws: Draws | None = None
        _check(options)
        if task.held_out:
            statistics.require()  # before anything is spent

    def _refuse_one_question(self) -> None:
        task = self.run.task
        if not task.question.names and "row" not in self.run.queries.inputs("fitness"):
            said = f"the question {task.question.text[:60]!r} names no column, so all rows would be asked alike"
            columns = ", ".join(name for name in task.rows[0] if name != task.target)
            raise UsageError(f"task {task.name}: {said}; write {{NAME}} with one of {columns}")

    @property
    def progress(self) -> Progress:
        """Where the run stands now."""
        now = self._progress
        now.questions, now.steps = self.run.steps.questions, self.run.steps.under_way
        if self._draws is not None:
            now.usage = self._draws.spent
        return now

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that it asks."""
        return (self.model,)

    def interrupt(self) -> None:
        """Make no call from here on; calls under way finish and are kept."""
        self.interrupted = True
        self.limit.stop("the run was interrupted")

    async def execute(self) -> Result:
        """Breed to the end. Cancelling it stops at once; what is finished is kept."""
        run_dir = self.options.get("run_dir")
        with ExitStack() as scopes:
            place = Path(run_dir or scopes.enter_context(scratch_directory()))
            about = self.options.get("about")
            folder = scopes.enter_context(RunFolder(place, self.identity(), about=about))
            scopes.enter_context(registry.using(self.model))
            scopes.enter_context(scope.setting(budgets.current, self.limit))
            await asyncio.to_thread(folder.begin)
            if (on_open := self.options.get("on_open")) is not None:
                on_open(folder.path)
            draws = self._draws = Draws(folder.journal, len(folder.kept) - 1)
            ended = await self._breed(folder, draws)
            comparison = await self._compare(folder, draws)
            if comparison is None and self.run.task.held_out:
                ended = self._cut_short()
            result = self._result(folder, draws, ended, comparison)
            about_result = structs.asdict(result) | {"history": len(result.history), "stats": len(result.stats)}
            about_result["run_dir"] = None
            await asyncio.to_thread(folder.write_end, self.run.mutation_prompts, about_result, ended)
            return result if run_dir else structs.replace(result, run_dir=None)

    def identity(self) -> dict[str, Any]:
        """What makes the run this run, as its folder has it."""
        return options_of(self.run, self.model)

    async def _breed(self, folder: RunFolder, draws: Draws) -> str:
        """Breed until the end, or the budget's; why it ended."""
        self._begin(folder)
        reserve = self._reserve(founded=bool(folder.kept))
        try:
            return await self._generations(folder, draws)
        except BudgetExceeded as error:
            if not folder.kept:
                raise BudgetExceeded(f"{error}, before the first generation was complete") from None
            return self._cut_short()
        finally:
            if self.limit.calls is not None:
                self.limit.calls += reserve

    async def _generations(self, folder: RunFolder, draws: Draws) -> str:
        """Breed from where the folder ends; why it ended. BudgetExceeded where the budget is spent."""
        breeder = Breeder(self.run, [kept.generation for kept in folder.kept])
        breeder.recorder = draws.of
        breeder.enough = lambda history: self._reason(history) is not None
        breeder.on_scored = self._on_scored
        clock = monotonic()

        async def keep(generation: Generation) -> None:
            nonlocal clock
            usage = await draws.close(generation.number)
            varied = await variety([scored.unit for scored in generation.population], self.run.embed)
            seconds, clock = monotonic() - clock, monotonic()
            stats = stats_of(generation, usage, variety=varied, batch=self.run.batch, seconds=seconds)
            await self._keep(folder, generation, stats)

        breeder.on_generation = keep
        await breeder.execute()
        return self._reason(breeder.history) or "generations"

    async def _keep(self, folder: RunFolder, generation: Generation, stats: GenerationStats) -> None:
        await folder.keep(generation, stats)
        await asyncio.to_thread(folder.write_generation, folder.kept[-1])
        self._progress.complete(generation, stats)
        self._tell()
        if (on_generation := self.options.get("on_generation")) is not None:
            on_generation(generation, stats)

    def _cut_short(self) -> str:
        return "interrupted" if self.interrupted else "budget"

    def _begin(self, folder: RunFolder) -> None:
        self._progress.resumed = len(folder.kept)
        for kept in folder.kept:
            self._progress.complete(kept.generation, kept.stats)
        self._progress.started = monotonic()

    def _reason(self, history: Sequence[Generation]) -> str | None:
        """Why not to go on from here, if there is a reason."""
        target, plateau = self.options.get("target"), self.options.get("plateau")
        if target is not None and best_of(history).fitness >= target:
            return "target"
        means = [generation.mean for generation in history]
        if plateau is not None and means.index(max(means)) < len(means) - plateau:
            return "plateau"
        return None

    def _reserve(self, *, founded: bool) -> int:
        """Calls put aside for the held-out rows, where the budget has that many beside those that the founders need."""
        plan = plan_calls(self.run.task, structs.replace(self.run.settings, generations=0))
        wanted, first = plan.held_out, 0 if founded else plan.founders + plan.fitness
        if self.limit.calls is None or self.limit.calls < wanted + max(first, 1):
            return 0
        self.limit.calls -= wanted
        return wanted

    def _on_scored(self, number: int, scored: Scored) -> None:
        self._progress.score(number, scored)
        self._tell()

    def _tell(self) -> None:
        if (on_progress := self.options.get("on_progress")) is not None:
            on_progress(self.progress)

    async def _compare(self, folder: RunFolder, draws: Draws) -> Comparison | None:
        if not self.run.task.held_out or self.interrupted:
            return None
        self._progress.phase = "comparing"
        self._tell()
        best = best_of([kept.generation for kept in folder.kept])
        run = structs.replace(self.run, steps=Steps())
        with scope.setting(replay.current, draws.of(_FINAL)):
            try:
                return await run.steps.unless_spent(compare(best, run))
            except BudgetExceeded:
                return None

    def _result(self, folder: RunFolder, draws: Draws, ended: str, comparison: Comparison | None) -> Result:
        history = tuple(kept.generation for kept in folder.kept)
        stats = tuple(kept.stats for kept in folder.kept)
        usage = draws.unfinished()
        for one in stats:
            paid = one.calls - one.cached_calls
            usage = usage + Usage(one.prompt_tokens, one.completion_tokens, paid, one.cached_calls)
        rollouts = self._rollouts(folder)
        return Result(best_of(history), history, stats, ended, usage, comparison, folder.path, rollouts)

    def _rollouts(self, folder: RunFolder) -> int:
        return sum(kept.stats.questions for kept in folder.kept)


def _check(options: BreedOptions) -> None:
    plateau = options.get("plateau")
    if plateau is not None and plateau < 1:
        raise UsageError(f"plateau={plateau}: it is a number of generations, at least 1")
