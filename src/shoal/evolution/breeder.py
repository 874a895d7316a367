"""PromptBreeder: task prompts and the prompts that change them, bred together by binary tournaments.

Fernando et al. 2023, "Promptbreeder: Self-Referential Self-Improvement Via Prompt Evolution" (arXiv:2309.16797).

A run is a graph of tasks that each wait only for what they need: a pair competes as soon as both are scored, its winner
is tried again and its loser overwritten at once, also while others of the generation are still being scored. Nothing
depends on what finishes first: chance is drawn by name, and mutations see the state at the beginning of the generation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from msgspec import Struct, structs

from shoal.errors import ShoalError, UsageError, did_you_mean
from shoal.evolution.births import Breeds, Mutant
from shoal.evolution.chance import chance
from shoal.evolution.embedding import shared
from shoal.evolution.fitness import OWN_FAULT, evaluate
from shoal.evolution.generation import Birth, Generation, best_of
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.mutators.contexts import shuffled
from shoal.evolution.snapshot import Snapshot
from shoal.evolution.surroundings import Breeding
from shoal.evolution.tournament import beats, pairing
from shoal.evolution.unit import Scored, Unit
from shoal.runtime import frames, replay, scope
from shoal.runtime.concurrency import gather
from shoal.runtime.frames import Frame
from shoal.runtime.replay import Recorder


class _Standing(NamedTuple):
    """Who stands in a slot, what is known of it or of its parent, and how it came there."""

    unit: Unit
    before: Scored | None = None
    birth: Birth | None = None


class _Slot(Struct):
    """One slot of one generation. `mutant` is made while the unit is scored, where that is wanted."""

    standing: "asyncio.Task[_Standing]"
    scored: "asyncio.Task[Scored]"
    mutant: "asyncio.Task[Mutant] | None" = None

    def tasks(self) -> "list[asyncio.Task[Any]]":
        return [self.standing, self.scored, *([self.mutant] if self.mutant is not None else [])]


class Breeder:
    """Breeds prompts for a task. `history` has every generation so far, founders first.

    `on_scored` is told of each unit that has been scored, in any order, with its generation; `on_generation` is waited
    for when a generation is complete, before it counts. `enough` says of a history whether to stop there. `recorder`
    keeps the draws of a generation.
    """

    def __init__(self, run: Breeding, history: Sequence[Generation] = ()) -> None:
        for name in run.settings.operators or ():
            if name not in MUTATORS:
                raise UsageError(f"no operator {name!r}; {did_you_mean(name, MUTATORS)}")
        self.run = run
        self.history = list(history)
        self.on_scored: Callable[[int, Scored], None] | None = None
        self.on_generation: Callable[[Generation], Awaitable[None]] | None = None
        self.enough: Callable[[Sequence[Generation]], bool] = lambda _: False
        self.recorder: Callable[[int], Recorder] | None = None
        self._breeds = Breeds(run)
        self._failures: dict[int, dict[int, ShoalError]] = {}  # of units that no question could be put to

    @property
    def best(self) -> Scored:
        """The fittest unit of the whole run."""
        return best_of(self.history)

    async def execute(self) -> Scored:
        """Breed until the last generation, from where the history ends; the fittest unit of the run.

        BudgetExceeded where the budget is spent: what was under way has finished by then.
        """
        await self.run.steps.unless_spent(self._grouped())
        return self.best

    async def _grouped(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._generations(group)
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def _generations(self, group: asyncio.TaskGroup) -> None:
        if self.history and self.enough(self.history):
            return
        number = self.history[-1].number if self.history else 0
        elites = [generation.best.unit for generation in self.history[:-1]]
        begin = self._again if self.history else self._founder
        earlier = Snapshot([_done(group, one) for one in self._population(-2)], elites[:-1])
        slots = [self._slot(group, number, slot, begin(slot), earlier) for slot in range(self._size)]
        before: Snapshot | list[Unit] = earlier if len(self.history) > 1 else elites
        while number < self.run.settings.generations:
            snapshot = Snapshot([slot.scored for slot in slots], before)
            following = self._following(group, number + 1, slots, snapshot)
            await self._complete(number, slots)
            if self.enough(self.history):
                for task in (task for slot in following for task in slot.tasks()):
                    task.cancel()
                return
            number, slots, before = number + 1, following, snapshot
        await self._complete(number, slots)

    def _following(
        self, group: asyncio.TaskGroup, number: int, slots: Sequence[_Slot], snapshot: Snapshot
    ) -> list[_Slot]:
        partners = pairing(self.run.settings.seed, number, self._size)
        return [
            self._slot(group, number, slot, self._stand(number, slot, partners.get(slot), slots, snapshot), snapshot)
            for slot in range(self._size)
        ]

    def _slot(
        self, group: asyncio.TaskGroup, number: int, slot: int, who: Coroutine[Any, Any, _Standing], snapshot: Snapshot
    ) -> _Slot:
        """A slot at work. `snapshot` is of the generation before, which mutants made ahead read."""
        standing = group.create_task(who)
        scored = group.create_task(self._score(number, slot, standing))
        settings = self.run.settings
        if not settings.speculate or number >= settings.generations:
            return _Slot(standing, scored)
        if slot not in pairing(settings.seed, number + 1, self._size):
            return _Slot(standing, scored)
        return _Slot(standing, scored, group.create_task(self._ahead(number + 1, slot, standing, snapshot)))

    async def _complete(self, number: int, slots: Sequence[_Slot]) -> None:
        population = tuple(await gather(*(asyncio.shield(slot.scored) for slot in slots)))
        for slot in slots:
            if slot.mutant is not None:
                await asyncio.shield(slot.mutant)  # also those that nobody will use: what they cost is known then
        if self.history and self.history[-1].number >= number:
            return
        births = [await slot.standing for slot in slots]
        generation = Generation(number, population, tuple(_outcomes(births, population)))
        self._refuse_failed(generation)
        keeping = asyncio.ensure_future(self._keep(generation))
        try:
            await asyncio.shield(keeping)
        except asyncio.CancelledError:
            await keeping  # a budget that the next generation spent meanwhile does not undo this one
            raise

    async def _keep(self, generation: Generation) -> None:
        if self.on_generation is not None:
            await self.on_generation(generation)
        self.history.append(generation)

    def _refuse_failed(self, generation: Generation) -> None:
        """Raise what befell all: a generation in which nothing worked is no generation."""
        failures = self._failures.pop(generation.number, {})
        if failures and all(not one.questions for one in generation.population if one.evaluated == generation.number):
            raise failures[min(failures)]
        self._breeds.refuse_failed(generation)

    # One slot of the population

    async def _founder(self, slot: int) -> _Standing:
        with self._counted(0):
            return _Standing(await self._breeds.founder(slot))

    async def _again(self, slot: int) -> _Standing:
        """Who stands in a slot of the last generation of the history."""
        unit = self.history[-1].population[slot].unit
        known = {one.unit.id: one for one in self._population(-2)}
        return _Standing(unit, known.get(unit.id) or known.get(unit.parent or ""))

    async def _stand(
        self, number: int, slot: int, partner: int | None, slots: Sequence[_Slot], snapshot: Snapshot
    ) -> _Standing:
        """Who stands in a slot after its tournament: the unit that won, or the winner's offspring."""
        mine = await asyncio.shield(slots[slot].scored)
        if partner is None:
            return self._stays(mine, number, slot)
        rival = await asyncio.shield(slots[partner].scored)
        if await self._wins((mine, slot), (rival, partner), snapshot):
            return self._stays(mine, number, slot)
        ahead = slots[partner].mutant
        if ahead is not None:
            mutant = await asyncio.shield(ahead)
        else:
            with self._counted(number):
                mutant = await self._breeds.mutant(rival, number, slot, snapshot)
        birth = Birth(slot, rival.unit.id, mine.unit.id, mutant.operator, failure=mutant.failure)
        if mutant.unit is None:
            return self._stays(mine, number, slot, birth)
        child = structs.replace(mutant.unit, id=f"{number}-{slot}")
        return _Standing(child, rival, structs.replace(birth, child=child.id, fell_back=child.fallback is not None))

    async def _wins(self, mine: tuple[Scored, int], rival: tuple[Scored, int], snapshot: Snapshot) -> bool:
        if not self.run.settings.fitness_sharing:
            return beats(mine, rival)
        population = await snapshot.population()
        first, second = [(await shared(one, population, self.run.embed), slot) for one, slot in (mine, rival)]
        return beats(first, second)

    def _stays(self, scored: Scored, number: int, slot: int, birth: Birth | None = None) -> _Standing:
        """The unit, tried again; its contexts are shuffled, but where it has been asked all questions."""
        settings = self.run.settings
        if settings.batch is None:
            return _Standing(scored.unit, scored, birth)
        return _Standing(shuffled(scored, settings, chance(settings.seed, "contexts", number, slot)), scored, birth)

    async def _ahead(self, number: int, slot: int, standing: "asyncio.Task[_Standing]", snapshot: Snapshot) -> Mutant:
        """A mutant of a unit before it is known whether it will win, from what is known a generation earlier."""
        unit, before, _ = await asyncio.shield(standing)
        parent = Scored(unit, 0.0, workings=before.workings if before is not None else ())
        if before is not None and before.unit.id == unit.id:
            parent = structs.replace(before, unit=unit)
        with self._counted(number):
            return await self._breeds.mutant(parent, number, slot, snapshot)

    async def _score(self, number: int, slot: int, standing: "asyncio.Task[_Standing]") -> Scored:
        if self.history and number == self.history[-1].number:
            return self.history[-1].population[slot]
        unit, before, _ = await asyncio.shield(standing)
        if before is not None and before.unit.id == unit.id and self.run.settings.batch is None:
            return before  # it has been asked all questions
        scored = await self._evaluated(unit, number, slot, before)
        if self.on_scored is not None:
            self.on_scored(number, scored)
        return scored

    async def _evaluated(self, unit: Unit, number: int, slot: int, before: Scored | None) -> Scored:
        random = chance(self.run.settings.seed, "questions", number, slot)
        try:
            with self._counted(number), frames.entered(Frame()):
                return await evaluate(unit, self.run, (number, slot), random, before)
        except OWN_FAULT as error:
            self._failures.setdefault(number, {})[slot] = error
            workings = before.workings if before else ()
            return Scored(unit, 0.0, 0, workings, evaluated=number, failed=self.run.batch)

    @contextmanager
    def _counted(self, number: int) -> Iterator[None]:
        """Calls in the body are of a generation; those of earlier ones are served first."""
        recorder = self.recorder(number) if self.recorder is not None else replay.current.get()
        with scope.setting(scope.age, number), scope.setting(replay.current, recorder):
            yield

    @property
    def _size(self) -> int:
        return self.run.settings.population_size

    def _population(self, place: int) -> Sequence[Scored]:
        """Of the history, counted from its end; nobody where it is shorter."""
        return self.history[place].population if len(self.history) >= -place else ()


def _outcomes(standings: Sequence[_Standing], population: Sequence[Scored]) -> Iterator[Birth]:
    for standing, scored in zip(standings, population, strict=True):
        if standing.birth is not None:
            parent = standing.before.fitness if standing.before is not None else 0.0
            better = standing.birth.child is not None and scored.fitness > parent
            yield structs.replace(standing.birth, better=better)


def _done(group: asyncio.TaskGroup, scored: Scored) -> "asyncio.Task[Scored]":
    async def known() -> Scored:
        return scored

    return group.create_task(known())


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
