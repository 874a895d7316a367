"""How many lines of a batch are under way at once, and how many bytes of them."""

import asyncio


class Window:
    """Room for `most` lines of together `most_bytes`; a line that is larger by itself is let in alone."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lines = self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        while self._lines and (self._lines >= self._most or self._bytes + size > self._most_bytes):
            self._left.clear()
            await self._left.wait()
        self._lines += 1
        self._bytes += size

    def leave(self, size: int, _: object = None) -> None:
        """A line of that size is done. As the callback of its task, it is given that, too."""
        self._lines -= 1
        self._bytes -= size
        self._left.set()
