"""A reply that streams server-sent events and is never silent for long."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from shoal.server import records
from shoal.server.refusals import Refusal

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx would hold events back
}


class EventStream:
    """Events to one client, from the first `send` on, or from `begin_after` seconds on where there is none before.

    While nothing is sent a comment is, every `silence` seconds: what `progress` says, or that we are still here. Until
    the reply has `begun` it may still become something else, an error with a status of its own.
    """

    def __init__(
        self,
        request: web.Request,
        *,
        begin_after: float = 8.0,
        silence: float = 8.0,
        progress: Callable[[], str] | None = None,
    ) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        self.begun = False
        self._request = request
        self._begin_after = begin_after
        self._silence = silence
        self._progress = progress or (lambda: "keep-alive")
        self._lock = asyncio.Lock()
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._arm(self._begin_after)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        if self.begun and isinstance(error, Exception) and self._request.transport is not None:
            self._request.transport.abort()  # what was sent is not whole, and no other reply can follow it

    async def send(self, data: bytes) -> None:
        """Write whole events. ConnectionError where the client is gone."""
        if not self.begun:
            await self._begin()
        self._sent_at = asyncio.get_running_loop().time()
        record = records.current.get()
        if record is not None and record.reply is not None:
            record.reply += data
        await self.response.write(data)

    async def fail(self, refusal: Refusal, event: bytes) -> None:
        """The last event of a stream that failed after it began, which tells the refusal as the API has it."""
        record = records.current.get()
        if record is not None:
            record.error = refusal.cause
        await self.send(event)

    async def _begin(self) -> None:
        async with self._lock:
            if not self.begun:
                await self.response.prepare(self._request)
                self.begun = True

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._due)

    def _due(self) -> None:
        idle = asyncio.get_running_loop().time() - self._sent_at
        if self.begun and idle < self._silence:
            self._arm(self._silence - idle)
        elif self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._comment())

    async def _comment(self) -> None:
        try:
            await self.send(f": {self._progress()}\n\n".encode())
        except ConnectionError:
            return  # the handler is being told
        self._arm(self._silence)
