"""What a mutation may look at, and how it writes: one for each mutation."""

import string
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from msgspec import Struct, field, structs

from shoal.evolution.chance import chance
from shoal.evolution.genome import Genome, labelled, writes_all
from shoal.evolution.queries import Queries
from shoal.evolution.replies import cleaned, first_listed
from shoal.evolution.settings import Settings
from shoal.evolution.steps import Steps
from shoal.evolution.task import Task
from shoal.evolution.unit import Scored, Unit
from shoal.runtime import frames
from shoal.runtime.frames import Frame

Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]  # one vector a text


class Breeding(Struct, frozen=True):
    """What stays the same for a whole run."""

    task: Task
    settings: Settings
    queries: Queries
    mutation_prompts: Sequence[str]
    thinking_styles: Sequence[str]
    embed: Embed
    steps: Steps = field(default_factory=Steps)

    @property
    def batch(self) -> int:
        """Questions that one evaluation puts, in all variants."""
        return self.settings.questions(len(self.task.rows))

    @property
    def genome(self) -> Genome:
        """Which prompts of a unit are bred. Where queries write a system prompt beside another, it has no call."""
        alone = self.queries.whole or not self.queries.system
        bred = self.task.system_prompt is None and alone
        return Genome(self.settings.prompts_per_unit, bred, self.queries.whole)


class Snapshot(Protocol):
    """The state that all mutations of a generation see: as it was when the generation began, whatever finished since.

    Who asks for it waits until the last unit has its fitness; who does not ask does not wait.
    """

    async def population(self) -> Sequence[Scored]: ...

    async def elites(self) -> Sequence[Unit]:
        """The best unit of each generation so far, in order."""
        ...


class _Seen:
    """A snapshot whose units are as mutations see them."""

    def __init__(self, snapshot: Snapshot, genome: Genome) -> None:
        self._snapshot = snapshot
        self._genome = genome

    async def population(self) -> Sequence[Scored]:
        population = await self._snapshot.population()
        return [structs.replace(scored, unit=self._genome.seen(scored.unit)) for scored in population]

    async def elites(self) -> Sequence[Unit]:
        return [self._genome.seen(unit) for unit in await self._snapshot.elites()]


class Surroundings:
    """What one mutation has: the run, the snapshot, chance of its own (`random`), and the Redescriber (`write`).

    The units of the snapshot are as the run's genome shows them: all that is bred is among their task prompts.
    `system_prompt` is the one that a query has written along with the first task prompt, where units have their own.
    """

    def __init__(
        self, run: Breeding, snapshot: Snapshot, random: Random, place: tuple[int, ...], decoder: Mapping[str, Any]
    ) -> None:
        self.run = run
        self.snapshot: Snapshot = _Seen(snapshot, run.genome)
        self.random = random
        self.system_prompt = ""
        self._place = place
        self._decoder = decoder

    async def write(
        self, query: str, index: int = 0, output: str = "task_prompt", listed: int | None = None, **inputs: Any
    ) -> str:
        """The prompt that the Redescriber writes for a query, from its output of that name; "" where it writes none.

        `index` tells draws apart that one mutation makes of one query. `listed` says that the reply goes on with a
        numbered list, and the number of its next item, which is the prompt.
        """
        with frames.entered(Frame((*self._place, index))):
            writing = self.run.queries.write(
                query,
                description=self.run.task.description,
                part=self.run.genome.part(index),
                prefix=self._prefix(query, index),
                redescriber=self._decoder,
                **inputs,
            )
            rendered = await self.run.steps.do(writing)
        if output == "task_prompt" and self.run.genome.whole and writes_all(rendered.outputs):
            return labelled(rendered.outputs)
        if index == 0 and self.run.task.system_prompt is None:
            self.system_prompt = cleaned(str(rendered.outputs.get("system_prompt", ""))) or self.system_prompt
        reply = str(rendered[output])
        return cleaned(reply) if listed is None else first_listed(reply, listed)

    def _prefix(self, query: str, index: int) -> str:
        settings = self.run.settings
        if not settings.prefix_diversity:
            return ""
        random = chance(settings.seed, "prefix", *self._place, query, index)
        return "".join(random.choices(string.ascii_letters + string.digits, k=50)) + "\n"
