"""New units: founders from mutation prompts and thinking styles, mutants from a parent by an operator."""

from typing import NamedTuple

from msgspec import structs

from shoal.errors import ShoalError
from shoal.evolution.chance import chance
from shoal.evolution.fitness import ends_the_run
from shoal.evolution.generation import Generation
from shoal.evolution.mutators import offspring, weights_of
from shoal.evolution.snapshot import Snapshot
from shoal.evolution.surroundings import Breeding, Surroundings
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.concurrency import gather

_HOTTEST = 2.0  # temperature; servers refuse more


class Mutant(NamedTuple):
    """What a mutation gave: a unit, still to be placed in a slot, or why there is none."""

    operator: str
    unit: Unit | None
    failure: str | None = None


class Breeds:
    """Makes the units of a run."""

    def __init__(self, run: Breeding) -> None:
        self.run = run
        self._unwritten = 0  # task prompts of founders that calls failed on
        self._failures: dict[tuple[int, int], ShoalError] = {}  # of mutations, by generation and slot

    async def founder(self, slot: int) -> Unit:
        """The first unit of a slot. A task prompt that a call fails on is the seed prompt; if all are, it is raised."""
        run, random = self.run, chance(self.run.settings.seed, "founder", slot)
        mutation_prompt = random.choice(run.mutation_prompts)
        temperature = random.uniform(*run.settings.temperature)
        styles = [random.choice(run.thinking_styles) for _ in range(run.genome.count)]
        unit = Unit(f"0-{slot}", (), mutation_prompt, run.task.system_prompt or "", temperature=temperature)
        around = self._surroundings(unit, 0, slot, Snapshot([]))
        written = await gather(*(self._initial(around, i, mutation_prompt, style) for i, style in enumerate(styles)))
        prompts = tuple(prompt or run.task.seed for prompt in written)
        changed = structs.replace(unit, task_prompts=prompts, unwritten=sum(not prompt for prompt in written))
        founder = run.genome.unseen(changed, unit)
        if (
            slot == 0 and run.settings.seed_founder
        ):  # what was written is not used: a call less is not worth a rule more
            founder = structs.replace(founder, task_prompts=(run.task.seed, *founder.task_prompts[1:]))
        return structs.replace(founder, system_prompt=around.system_prompt or founder.system_prompt)

    async def _initial(self, around: Surroundings, i: int, mutation_prompt: str, style: str) -> str:
        try:
            return await around.write("initial", i, mutation_prompt=mutation_prompt, thinking_style=style)
        except ShoalError as error:
            self._unwritten += 1
            settings = self.run.settings
            if ends_the_run(error) or self._unwritten == settings.population_size * self.run.genome.count:
                raise
            return ""

    async def mutant(self, parent: Scored, number: int, slot: int, snapshot: Snapshot) -> Mutant:
        """An offspring for generation `number`; `slot` only names its chance and its draws."""
        around = self._surroundings(parent.unit, number, slot, snapshot)
        name = operator(self.run, around)
        try:
            unit = await offspring(name, parent, around)
        except ShoalError as error:
            if ends_the_run(error):
                raise
            self._failures[number, slot] = error
            return Mutant(name, None, failure=f"{type(error).__name__}: {error}")
        step = self.run.settings.temperature_step
        temperature = (parent.unit.temperature or 0.0) + around.random.uniform(-step, step)
        return Mutant(name, structs.replace(unit, born=number, temperature=min(max(0.0, temperature), _HOTTEST)))

    def refuse_failed(self, generation: Generation) -> None:
        """Raise what befell every mutation of a generation, where there were several."""
        births, number = generation.births, generation.number
        failures = {key: error for key, error in self._failures.items() if key[0] == number}
        for key in failures:
            del self._failures[key]
        if failures and len(births) > 1 and all(birth.child is None for birth in births):
            raise failures[min(failures)]

    def _surroundings(self, unit: Unit, number: int, slot: int, snapshot: Snapshot) -> Surroundings:
        random = chance(self.run.settings.seed, "mutation", number, slot)
        decoder = {"temperature": unit.temperature, **self.run.task.decoders.redescriber}
        return Surroundings(self.run, snapshot, random, (number, slot), decoder)


def operator(run: Breeding, around: Surroundings) -> str:
    """The operator for one offspring."""
    weights = weights_of(run.settings)
    return around.random.choices(list(weights), list(weights.values()))[0]
