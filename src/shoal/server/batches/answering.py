"""One line of a batch: answered as the same request over HTTP is, and told in the same words where it fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from typing import Any

from msgspec import Struct

from shoal.batch.journal import Journal, RowRecorder
from shoal.errors import ShoalError, StoreError
from shoal.runtime import replay, scope
from shoal.server.access.callers import Caller
from shoal.server.batches.lines import Line
from shoal.server.endpoints.asked import Asked
from shoal.server.endpoints.chat import whole_chat
from shoal.server.endpoints.completions import AskedText, whole_text
from shoal.server.endpoints.responses import AskedResponse, whole_response
from shoal.server.records import log_fault
from shoal.server.refusals import Refusal, refusal_of
from shoal.server.service import Service

_LONGEST_WAIT = 60.0  # seconds until a line asks again whether its key lets it in
_YOUNG = 1 << 40  # live requests are older than any line, and served first
_ages = count(_YOUNG)


class Endpoint(Struct, frozen=True):
    """An endpoint whose requests may stand in a batch: how a body is read, which raises Refusal, and answered."""

    read: Callable[[bytes, Caller, Service], Asked]
    answer: Callable[[Any], Awaitable[bytes]]


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(Asked, whole_chat),
    "/v1/completions": Endpoint(AskedText, whole_text),
    "/v1/responses": Endpoint(AskedResponse, whole_response),
}


class Slots(asyncio.Semaphore):
    """Turns of lines to be under way, `most` at once; first come, first served. `within` are those of more batches."""

    def __init__(self, most: int, within: "Slots | None" = None) -> None:
        self.most: int = most if within is None else min(most, within.most)
        self._within = within
        super().__init__(self.most)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self:
            if self._within is None:
                yield
            else:
                async with self._within.turn():
                    yield


class Answering:
    """Answers the lines of one batch."""

    def __init__(
        self, batch: str, endpoint: Endpoint, service: Service, caller: Caller, journal: Journal, slots: Slots
    ) -> None:
        self._batch = batch
        self._endpoint = endpoint
        self._service = service
        self._caller = caller
        self._journal = journal
        self._slots = slots
        self._held_back = asyncio.Lock()

    async def line(self, number: int, line: Line) -> tuple[int, bytes]:
        """The status and the body of a line's reply. Raises StoreError where what it paid for cannot be kept."""
        try:
            asked = self._endpoint.read(bytes(line.body), self._caller, self._service)
            with ExitStack() as stack:
                stack.enter_context(scope.setting(scope.age, next(_ages)))
                stack.enter_context(scope.setting(scope.realm, f"{self._batch}.{number}"))
                if asked.served.base is None or asked.n > 1:  # many calls: those that are paid for survive a crash
                    recorder = RowRecorder(self._journal, number)
                    stack.enter_context(scope.setting(replay.current, recorder))
                return 200, await self._admitted(asked)
        except StoreError:
            raise
        except ShoalError as error:
            refusal = refusal_of(error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            refusal = self._fault(number, error)
        except Exception as error:  # noqa: BLE001 - whatever befalls a line is that line's, and no other's
            refusal = self._fault(number, error)
        return refusal.status, refusal.body()

    async def _admitted(self, asked: Asked) -> bytes:
        """The reply, once the key's own limits allow it; no slot is held while waiting for that."""
        while True:
            try:
                async with self._slots.turn():
                    return await self._endpoint.answer(asked)
            except Refusal as refusal:
                if refusal.status != 429 or refusal.retry_after is None:
                    raise
                wait = refusal.retry_after
            async with self._held_back:  # one after another, for what the key has room for next is one
                await asyncio.sleep(min(max(wait, 0.01), _LONGEST_WAIT))

    def _fault(self, number: int, error: BaseException) -> Refusal:
        log_fault(f"line {number} of {self._batch} failed", error)
        return Refusal(500, "an error of the server's own; its log has it", kind="server_error")
