"""What a mutation may look at, and how it writes: one for each mutation."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from msgspec import Struct

from shoal.evolution.queries import Queries
from shoal.evolution.settings import Settings
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


class Snapshot(Protocol):
    """The state that all mutations of a generation see: as it was when the generation began, whatever finished since.

    Who asks for it waits until the last unit has its fitness; who does not ask does not wait.
    """

    async def population(self) -> Sequence[Scored]: ...

    async def elites(self) -> Sequence[Unit]:
        """The best unit of each generation so far, in order."""
        ...


class Surroundings:
    """What one mutation has: the run, the snapshot, chance of its own (`random`), and the Redescriber (`write`)."""

    def __init__(
        self, run: Breeding, snapshot: Snapshot, random: Random, place: tuple[int, ...], decoder: Mapping[str, Any]
    ) -> None:
        self.run = run
        self.snapshot = snapshot
        self.random = random
        self._place = place
        self._decoder = decoder

    async def write(self, query: str, index: int = 0, output: str = "task_prompt", **inputs: Any) -> str:
        """What the Redescriber writes for a query: its output of that name, stripped.

        `index` tells draws apart that one mutation makes of one query.
        """
        with frames.entered(Frame((*self._place, index))):
            rendered = await self.run.queries.write(
                query, description=self.run.task.description, redescriber=self._decoder, **inputs
            )
        return str(rendered[output]).strip()
