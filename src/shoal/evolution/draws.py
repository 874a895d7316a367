"""The draws of a run: none is asked twice, and each counts in the first generation that needs it."""

from shoal.batch.journal import Journal, RowRecorder
from shoal.runtime.types import Completion, Request, Usage, total


class Draws:
    """All draws of a run, kept in its journal with the number of a generation as their owner.

    Generations overlap, so that who asks first is chance; the lowest number owns a draw that several need. So what a
    generation is said to cost does not depend on timing. `closed` is the last generation that is complete.
    """

    def __init__(self, journal: Journal, closed: int = -1) -> None:
        self.journal = journal
        self.closed = closed
        self.spent = Usage()  # by this process
        self.kept = journal.keys()  # so that the disk is not asked for what is not there
        self.writing: dict[bytes, Completion] = {}  # on their way to the disk
        self._open: dict[int, dict[bytes, Usage]] = {}
        self._claims: dict[int, list[bytes]] = {}

    def of(self, number: int) -> "GenerationRecorder":
        """What keeps the draws of a generation, for `replay.current`."""
        return GenerationRecorder(self, number)

    async def close(self, number: int) -> Usage:
        """What a generation that is complete has cost; from here on its draws are free for others."""
        if claims := self._claims.pop(number, []):
            await self.journal.own(claims, number)
        self.closed = max(self.closed, number)
        return total(self._open.pop(number, {}).values())

    def unfinished(self) -> Usage:
        """What was spent on generations that are not complete."""
        return total(usage for draws in self._open.values() for usage in draws.values())

    def count(self, key: bytes, number: int, usage: Usage) -> int:
        """Generation `number` needs a draw; the generation that it counts in."""
        for other, draws in self._open.items():
            if key in draws:
                paid = usage if usage.calls > draws[key].calls else draws[key]
                if other <= number:
                    draws[key] = paid
                    return other
                del draws[key]
                self._claims.setdefault(number, []).append(key)
                usage = paid
                break
        self._open.setdefault(number, {})[key] = usage
        return number

    def count_kept(self, key: bytes, number: int, owner: int, usage: Usage) -> bool:
        """Generation `number` needs a draw that was kept before; whether it counts as paid for by it."""
        if owner <= self.closed and owner != number:
            return False
        if owner > number and not any(key in draws for draws in self._open.values()):
            self._claims.setdefault(number, []).append(key)
        self.count(key, min(owner, number), usage)
        return True


class GenerationRecorder(RowRecorder):
    """Keeps the draws of one generation, and replays them when it is done again."""

    def __init__(self, draws: Draws, number: int) -> None:
        super().__init__(draws.journal, number)
        self.draws = draws

    def replay(self, identity: str, request: Request) -> Completion | None:
        key = self._key(identity, request)
        if (fresh := self.draws.writing.get(key)) is not None:
            self.draws.count(key, self.number, fresh.usage)
            return fresh.cached()
        kept = self.journal.draw(key) if key in self.draws.kept else None
        if kept is None:
            return None
        owner, completion = kept
        counts = self.draws.count_kept(key, self.number, owner, completion.usage)
        return completion if counts else completion.cached()

    async def record(self, identity: str, request: Request, completion: Completion) -> None:
        key = self._key(identity, request)
        self.draws.spent = self.draws.spent + completion.usage
        owner = self.draws.count(key, self.number, completion.usage)
        self.draws.writing[key] = completion
        try:
            await self.journal.keep_draw(key, owner, completion)
            self.draws.kept.add(key)
        finally:
            self.draws.writing.pop(key, None)
