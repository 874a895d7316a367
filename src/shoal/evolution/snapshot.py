"""The state that mutations see: a generation as it was scored, and the elites up to it."""

import asyncio
from collections.abc import Sequence

from shoal.evolution.unit import Scored, Unit
from shoal.runtime.concurrency import gather


class Snapshot:
    """A generation, slot by slot, and the snapshot before it (or the elites known of a run that goes on)."""

    def __init__(self, slots: "Sequence[asyncio.Task[Scored]]", before: "Snapshot | Sequence[Unit]" = ()) -> None:
        self._slots = slots
        self._before = before

    async def population(self) -> Sequence[Scored]:
        """All units; whoever asks waits until the last is scored."""
        return await gather(*map(asyncio.shield, self._slots))

    async def elites(self) -> Sequence[Unit]:
        """The best unit of each generation so far, in order."""
        before, population = await self._elites_before(), await self.population()
        return [*before, max(population, key=lambda scored: scored.fitness).unit] if population else before

    async def _elites_before(self) -> Sequence[Unit]:
        if isinstance(self._before, Snapshot):
            self._before = await self._before.elites()  # earlier generations need be held no longer
        return self._before
