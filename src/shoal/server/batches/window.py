"""How many lines of a batch are under way at once: fewer where live requests would wait for them."""

import asyncio
from time import perf_counter

_AT_A_TURN = 16  # lines let in before others have their turn
_LONGEST_TURN = 0.02  # seconds that a turn of the event loop may take before fewer lines are let in
_LEAST = 16  # lines that are under way however long a turn takes


class Window:
    """Room for `most` lines of together `most_bytes`; a line that is larger by itself is let in alone."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lines = self._bytes = self._in_turn = 0
        self._left = asyncio.Event()
        self._busy = False

    async def enter(self, size: int) -> None:
        if self._in_turn >= _AT_A_TURN:
            await self._turn()
        while self._lines and not self._has_room(size):
            self._left.clear()
            await self._left.wait()
            await self._turn()
        self._in_turn += 1
        self._lines += 1
        self._bytes += size

    def leave(self, size: int, _: object = None) -> None:
        """A line of that size is done. As the callback of its task, it is given that, too."""
        self._lines -= 1
        self._bytes -= size
        self._left.set()

    def _has_room(self, size: int) -> bool:
        most = _LEAST if self._busy else self._most
        return self._lines < most and self._bytes + size <= self._most_bytes

    async def _turn(self) -> None:
        began = perf_counter()
        await asyncio.sleep(0)
        self._busy = perf_counter() - began > _LONGEST_TURN
        self._in_turn = 0
