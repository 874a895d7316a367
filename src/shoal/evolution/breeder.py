"""PromptBreeder: task prompts and the prompts that change them, bred together by binary tournaments.

Fernando et al. 2023, "Promptbreeder: Self-Referential Self-Improvement Via Prompt Evolution" (arXiv:2309.16797).

A run is a graph of tasks that each wait only for what they need: a pair competes as soon as both are scored, its winner
is tried again and its loser overwritten at once, also while others of the generation are still being scored. Nothing
depends on what finishes first: chance is drawn by name, and mutations see the state at the beginning of the generation.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from shoal.errors import UsageError, did_you_mean
from shoal.evolution.chance import chance
from shoal.evolution.fitness import evaluate
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.surroundings import Breeding, Surroundings
from shoal.evolution.unit import Scored, Unit
from shoal.runtime import frames, scope
from shoal.runtime.concurrency import gather
from shoal.runtime.frames import Frame

_Slots = list["asyncio.Task[Scored]"]


class Generation(Struct, frozen=True):
    """A generation whose units all have a fitness."""

    number: int
    population: tuple[Scored, ...]

    @property
    def best(self) -> Scored:
        return max(self.population, key=lambda scored: scored.fitness)


class Breeder:
    """Breeds prompts for a task. `history` has every generation so far, founders first.

    `on_generation` is called when a generation is complete, before the next one counts.
    """

    def __init__(self, run: Breeding, history: Sequence[Generation] = ()) -> None:
        for name in run.settings.operators or ():
            if name not in MUTATORS:
                raise UsageError(f"no operator {name!r}; {did_you_mean(name, MUTATORS)}")
        self.run = run
        self.history = list(history)
        self.on_generation: Callable[[Generation], None] | None = None

    @property
    def best(self) -> Scored:
        """The fittest unit of the whole run."""
        return max((generation.best for generation in self.history), key=lambda scored: scored.fitness)

    async def execute(self) -> Scored:
        """Breed until the last generation, from where the history ends; the fittest unit of the run."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._generations(group)
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        return self.best

    async def _generations(self, group: asyncio.TaskGroup) -> None:
        settings, done = self.run.settings, self.history[-1].number if self.history else -1
        if done < 0:
            slots = [group.create_task(self._founder(slot)) for slot in range(settings.population_size)]
        else:
            slots = [group.create_task(_known(scored)) for scored in self.history[-1].population]
        snapshot = _Snapshot([], [generation.best.unit for generation in self.history[:-1]])
        for number in range(max(done, 0) + 1, settings.generations + 1):
            snapshot = _Snapshot(slots, snapshot)
            partners = pairing(settings.seed, number, settings.population_size)
            following = [
                group.create_task(self._next(number, slot, partners.get(slot), slots, snapshot))
                for slot in range(settings.population_size)
            ]
            await self._complete(number - 1, slots)
            slots = following
        await self._complete(settings.generations, slots)

    async def _complete(self, number: int, slots: _Slots) -> None:
        population = tuple(await gather(*map(asyncio.shield, slots)))
        if self.history and self.history[-1].number >= number:
            return
        generation = Generation(number, population)
        self.history.append(generation)
        if self.on_generation is not None:
            self.on_generation(generation)

    # One slot of the population

    async def _founder(self, slot: int) -> Scored:
        run, random = self.run, chance(self.run.settings.seed, "founder", slot)
        mutation_prompt = random.choice(run.mutation_prompts)
        temperature = random.uniform(*run.settings.temperature)
        styles = [random.choice(run.thinking_styles) for _ in range(run.settings.prompts_per_unit)]
        unit = Unit(f"0-{slot}", (), mutation_prompt, run.task.system_prompt or "", temperature=temperature)
        around = self._surroundings(unit, 0, slot, _Snapshot([], []))
        written = await gather(
            *(
                around.write("initial", i, mutation_prompt=mutation_prompt, thinking_style=style)
                for i, style in enumerate(styles)
            )
        )
        return await self._evaluated(structs.replace(unit, task_prompts=tuple(written)), 0, slot, None)

    async def _next(self, number: int, slot: int, partner: int | None, slots: _Slots, snapshot: "_Snapshot") -> Scored:
        """What stands in a slot after its tournament: the unit that won, tried again, or the winner's offspring."""
        mine = await asyncio.shield(slots[slot])
        if partner is None:
            return await self._again(mine, number, slot)
        rival = await asyncio.shield(slots[partner])
        if beats((mine, slot), (rival, partner)):
            return await self._again(mine, number, slot)
        child = await self._offspring(rival, number, slot, snapshot)
        return await self._evaluated(child, number, slot, rival)

    async def _again(self, scored: Scored, number: int, slot: int) -> Scored:
        """The unit on new questions; where each is asked all of them, what is known of it holds."""
        if self.run.settings.batch is None:
            return scored
        return await self._evaluated(scored.unit, number, slot, scored)

    async def _evaluated(self, unit: Unit, number: int, slot: int, before: Scored | None) -> Scored:
        random = chance(self.run.settings.seed, "questions", number, slot)
        with scope.setting(scope.age, number), frames.entered(Frame()):
            return await evaluate(unit, self.run, (number, slot), random, before)

    async def _offspring(self, parent: Scored, number: int, slot: int, snapshot: "_Snapshot") -> Unit:
        around = self._surroundings(parent.unit, number, slot, snapshot)
        name = operator(self.run, around)
        with scope.setting(scope.age, number):
            child = await MUTATORS[name](parent, around)
        step = self.run.settings.temperature_step
        temperature = max(0.0, (parent.unit.temperature or 0.0) + around.random.uniform(-step, step))
        born = f"{number}-{slot}"
        return structs.replace(
            child, id=born, operator=name, parent=parent.unit.id, born=number, temperature=temperature
        )

    def _surroundings(self, unit: Unit, number: int, slot: int, snapshot: "_Snapshot") -> Surroundings:
        random = chance(self.run.settings.seed, "mutation", number, slot)
        decoder = {"temperature": unit.temperature, **self.run.task.decoders.redescriber}
        return Surroundings(self.run, snapshot, random, (number, slot), decoder)


class _Snapshot:
    """A generation as it was scored, and the elites up to it: of the snapshot before, or of a run that is resumed."""

    def __init__(self, slots: _Slots, before: "_Snapshot | list[Unit]") -> None:
        self._slots = slots
        self._before = before

    async def population(self) -> Sequence[Scored]:
        return await gather(*map(asyncio.shield, self._slots))

    async def elites(self) -> Sequence[Unit]:
        before = self._before if isinstance(self._before, list) else await self._before.elites()
        population = await self.population()
        return [*before, max(population, key=lambda scored: scored.fitness).unit] if population else before


def pairing(seed: int, number: int, size: int) -> dict[int, int]:
    """Slots paired at random, each with its partner; of an odd number one has none and goes on as it is."""
    slots = list(range(size))
    chance(seed, "pairing", number).shuffle(slots)
    pairs = list(zip(slots[::2], slots[1::2], strict=False))
    return dict(pairs) | {b: a for a, b in pairs}


def beats(mine: tuple[Scored, int], rival: tuple[Scored, int]) -> bool:
    """Whether the first wins: it is fitter, or as fit and in the lower slot."""
    return (mine[0].fitness, -mine[1]) > (rival[0].fitness, -rival[1])


def operator(run: Breeding, around: Surroundings) -> str:
    """The operator for one offspring."""
    weights = run.settings.operators or dict.fromkeys(MUTATORS, 1.0)
    return around.random.choices(list(weights), list(weights.values()))[0]


async def _known(scored: Scored) -> Scored:
    return scored


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
