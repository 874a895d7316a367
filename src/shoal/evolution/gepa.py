"""GEPA (arXiv:2507.19457) through the `gepa` library, on our engine: prompts that are improved by reflecting on them.

A candidate is tried on a few questions, a model is shown what came of them and writes a better prompt; where that does
better on the same questions, it is tried on all validation questions and joins the pool, from which the next parent is
drawn among those that are best on some question. The library decides all this; every call is ours.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Unpack

from msgspec import Struct, field, structs

from shoal.backends.loop import run as run_program
from shoal.batch.rows import Row
from shoal.errors import RunError, UsageError, refuse_unknown
from shoal.evolution import planning, reflective
from shoal.evolution.answering import Answering
from shoal.evolution.chance import chance
from shoal.evolution.draws import Draws
from shoal.evolution.folder import RunFolder
from shoal.evolution.generation import Birth, Generation
from shoal.evolution.identity import options_of
from shoal.evolution.pool import Candidate, Pool, Question, RolloutsSpent
from shoal.evolution.running import BreedOptions, Evolution, Result
from shoal.evolution.settings import Settings
from shoal.evolution.statistics import GenerationStats, stats_of, variety
from shoal.evolution.task import Task
from shoal.runtime import replay
from shoal.runtime.model import Model
from shoal.runtime.types import Usage
from shoal.techniques.opening import identities, names, opened, refuse_unpriced


class GepaSettings(Struct, frozen=True, kw_only=True):
    """How GEPA works; the number of rollouts is an option of the run.

    minibatch   questions that a prompt is tried on before and after a reflection on them
    validation  rows that candidates are ranked by, drawn from the task's by the seed; the others are for reflections.
                None: half of them, at most 50
    parallel    parents drawn at once: their questions, reflections and validations go out together
    reflection  sampling parameters of the reflections
    """

    minibatch: int = 3
    validation: int | None = None
    parallel: int = 1
    reflection: Mapping[str, Any] = field(default_factory=lambda: {"max_tokens": 1000, "temperature": 1.0})

    def __post_init__(self) -> None:
        for name in ("minibatch", "validation", "parallel"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise UsageError(f"{name}={given}: it must be at least 1")


def breed_gepa(
    task: Task,
    *,
    model: Model | str,
    settings: Settings | None = None,
    gepa: GepaSettings | None = None,
    reflection_model: Model | str | None = None,
    **options: Unpack[BreedOptions],
) -> Result:
    """Improve the task's seed prompt with GEPA: as `breed`, with its options, its folder and its Result.

    Of `settings` the seed and the variant hold, and without `rollouts` it is as many as PromptBreeder would have with
    them. Each candidate that joins the pool is a generation of the result, whose population is the pool so far. A run
    that was stopped begins again on what it has kept: it comes to where it was without a call. `reflection_model` (or
    its spec) writes the prompts; default the model itself.
    """
    return run_program(
        abreed_gepa(task, model=model, settings=settings, gepa=gepa, reflection_model=reflection_model, **options)
    )


async def abreed_gepa(
    task: Task,
    *,
    model: Model | str,
    settings: Settings | None = None,
    gepa: GepaSettings | None = None,
    reflection_model: Model | str | None = None,
    **options: Unpack[BreedOptions],
) -> Result:
    """`breed_gepa` for a program that is already asynchronous."""
    refuse_unknown("breed_gepa", options, BreedOptions)
    async with opened(model) as known, opened(known if reflection_model is None else reflection_model) as reflecting:
        run = GepaEvolution(task, known, settings or Settings(), gepa, reflecting, **options)
        return await run.execute()


class GepaEvolution(Evolution):
    """One run of GEPA: `execute` it, look at its `progress`, `interrupt` it."""

    def __init__(
        self,
        task: Task,
        model: Model,
        settings: Settings,
        gepa: GepaSettings | None = None,
        reflection_model: Model | None = None,
        **options: Unpack[BreedOptions],
    ) -> None:
        version = reflective.require()
        rollouts = options.pop("rollouts", None)
        if len(settings.variants) > 1:
            raise UsageError(f"gepa asks in one way: choose one of {', '.join(map(repr, settings.variants))}")
        super().__init__(task, model, settings, **options)
        if rollouts is None:
            rollouts = planning.rollouts(self.run.task, settings)
        self.run = structs.replace(self.run, settings=structs.replace(settings, prompts_per_unit=1))
        self.gepa = gepa or GepaSettings()
        self.questions = questions(self.run.task.rows, self.gepa.validation, settings.seed)
        self.reflection_model = reflection_model or model
        refuse_unpriced(self.limit, self.reflection_model)
        self.pool = Pool(self.run, rollouts, self.reflection_model, self.gepa.reflection)
        self._version = version
        self.validation = sum(question.validation for question in self.questions)
        self._check()
        self._progress = structs.replace(
            self._progress, generations=(rollouts - self.validation) // self.least, population=1, rollouts=rollouts
        )

    @property
    def least(self) -> int:
        """Rollouts that adding a candidate takes: a parent and a child on a minibatch, and the child's validation."""
        return 2 * self.gepa.minibatch + self.validation

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.model, self.reflection_model)

    @property
    def reflections(self) -> int:
        """Texts that may be written, at most: each follows a minibatch of its parent's."""
        return (self.pool.most - self.validation) // self.gepa.minibatch

    def _check(self) -> None:
        if self.pool.most < self.validation + self.least:
            raise UsageError(
                f"rollouts={self.pool.most}: the seed prompt and one other take {self.validation + self.least}, "
                f"{self.validation} of them for validation; allow more, or set validation lower"
            )

    def identity(self) -> dict[str, Any]:
        own = structs.asdict(self.gepa) | {"validation": self.validation, "version": self._version}
        own["model"] = [*identities(self.reflection_model), names(self.reflection_model)[1]]
        settings = {"seed": self.run.settings.seed, "variants": self.run.settings.variants}
        shared = {name: options_of(self.run, self.model)[name] for name in ("model", "technique", "task")}
        return {**shared, "optimizer": "gepa", "gepa": own, "settings": settings, "queries": self._fitness_query()}

    def _fitness_query(self) -> dict[str, str]:
        return {"fitness": self.run.queries.prompts["fitness"].text}

    async def _generations(self, folder: RunFolder, draws: Draws) -> str:
        had = sum(kept.stats.questions for kept in folder.kept)
        if had > self.pool.most:
            raise RunError(f"{folder.path} holds a run of {had} rollouts, now rollouts={self.pool.most}; allow as many")
        climb = _Climb(self, folder, draws)
        try:
            await self.run.steps.unless_spent(climb.execute())
        except RolloutsSpent:
            pass
        finally:
            folder.write("candidates.json", climb.facts())
        return self._reason(climb.history) or "rollouts"

    def _rollouts(self, folder: RunFolder) -> int:
        return self.pool.rollouts


class _Climb:
    """One execution: the library at work, and the generations that come of it, which are kept as they come."""

    def __init__(self, evolution: GepaEvolution, folder: RunFolder, draws: Draws) -> None:
        self.history: list[Generation] = []
        self._evolution = evolution
        self._pool = evolution.pool
        self._folder = folder
        self._draws = draws
        self._answering = Answering()
        own, validation = evolution.gepa, evolution.validation
        self._library = reflective.Library(self._pool, self._answering.ask, own.minibatch, own.parallel, validation)
        self._candidates: list[dict[str, Any]] = []
        self._clock = monotonic()
        self._counted = _Counts()

    async def execute(self) -> None:
        evolution = self._evolution
        self._pool.told = evolution._tell
        replay.current.set(self._draws.of(0))
        seed = evolution.run.settings.seed
        await self._answering.run(partial(self._library.optimize, evolution.questions, seed, self._added, self._enough))

    def _enough(self) -> bool:
        return self._pool.left < self._evolution.least or self._evolution._reason(self.history) is not None

    async def _added(self, number: int, candidate: Candidate, parents: Sequence[int]) -> None:
        """A candidate is in the pool: a generation, kept where it was not kept before."""
        generation = self._generation(number, candidate, parents)
        usage = await self._draws.close(number)
        replay.current.set(self._draws.of(number + 1))
        if number >= len(self._folder.kept):
            varied = await variety([scored.unit for scored in generation.population], self._evolution.run.embed)
            stats = self._stats(generation, usage, varied)
            await self._evolution._keep(self._folder, generation, stats)
        elif self._folder.kept[number].generation != generation:
            raise RunError(f"{self._folder.path}: candidate {number} is another than it was; choose another folder")
        self.history.append(generation)
        self._counted, self._clock = self._counts(), monotonic()

    def _generation(self, number: int, candidate: Candidate, parents: Sequence[int]) -> Generation:
        pool = self.history[-1].population if self.history else ()
        known, scores = self._pool.validated(candidate)
        parent = pool[parents[0]] if parents else None
        facts = {"operator": "reflection", "parent": parent.unit.id} if parent else {"operator": "seed"}
        unit = structs.replace(known.unit, id=f"{number}-{number}", born=number, **facts)
        scored = structs.replace(known, unit=unit, evaluated=number)
        self._candidates.append(
            {
                "id": unit.id,
                "parents": [pool[place].unit.id for place in parents],
                "texts": candidate,
                "fitness": scored.fitness,
                "scores": scores,
                "rollouts": self._pool.rollouts,
            }
        )
        if parent is None:
            return Generation(number, (scored,))
        birth = Birth(number, parent.unit.id, "", "reflection", unit.id, better=scored.fitness > parent.fitness)
        return Generation(number, (*pool, scored), (birth,))

    def _stats(self, generation: Generation, usage: Usage, varied: float | None) -> GenerationStats:
        """Questions, failures and proposals are those since the candidate before."""
        now, before = self._counts(), self._counted
        asked, seconds = now.rollouts - before.rollouts, monotonic() - self._clock
        stats = stats_of(generation, usage, variety=varied, batch=asked, seconds=seconds)
        operators = {
            name: structs.replace(one, tried=now.proposals - before.proposals, failed=now.unwritten - before.unwritten)
            for name, one in stats.operators.items()
        }
        return structs.replace(stats, operators=operators, failed=now.failed - before.failed)

    def _counts(self) -> "_Counts":
        pool = self._pool
        return _Counts(pool.rollouts, pool.failed, len(self._library.proposals), pool.unwritten)

    def facts(self) -> dict[str, Any]:
        """The candidates of the pool, and all that were proposed, as plain data."""
        ids = [candidate["id"] for candidate in self._candidates]
        proposals = [structs.asdict(one) | {"parent": ids[one.parent]} for one in self._library.proposals]
        return {"candidates": self._candidates, "proposals": proposals}


class _Counts(Struct, frozen=True):
    """What a run has come to: questions put and failed, prompts proposed, reflections that failed."""

    rollouts: int = 0
    failed: int = 0
    proposals: int = 0
    unwritten: int = 0


def questions(rows: Sequence[Row], validation: int | None, seed: int) -> list[Question]:
    """The rows, some of which, drawn by the seed, are for validation; UsageError where none is left for reflections."""
    count = min(len(rows) // 2, 50) if validation is None else validation
    if not 0 < count < len(rows):
        raise UsageError(f"validation: {count} of {len(rows)} rows; at least one is needed, and one for reflections")
    drawn = set(chance(seed, "validation").sample(range(len(rows)), count))
    return [Question(row, number in drawn) for number, row in enumerate(rows)]
