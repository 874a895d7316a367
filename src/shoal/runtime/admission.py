"""What an endpoint lets in now: its rates, how many requests at once, and the waits it asked for.

One for each endpoint, shared by all that is sent to it: the scheduler's wire requests, and those that pass by unread.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from shoal.errors import ModelError, RateLimited
from shoal.runtime.limits import AdaptiveConcurrency, Limits, RateLimit
from shoal.runtime.retry import RetryBudget, RetryPolicy, retry_delay


class Slot:
    """One request under way. `used` is what it took in tokens, once that is known."""

    __slots__ = ("ordinal", "reserved", "used")

    def __init__(self, ordinal: int, reserved: int) -> None:
        self.ordinal = ordinal
        self.reserved = reserved
        self.used = 0


class Admission:
    """Who may send, and when. `sent` counts requests, `in_flight` those under way."""

    def __init__(self, limits: Limits, ceiling: int, retry: RetryPolicy, name: str) -> None:
        self.retry = retry
        self.name = name
        self.in_flight = self.sent = 0
        self._rate = RateLimit(limits)
        self._concurrency = AdaptiveConcurrency(limits.max_in_flight or ceiling)
        self._retry_budget = RetryBudget()
        self._not_before = 0.0  # the server asked everybody to wait until then
        self._parked_until = 0.0
        self._due: Literal["passing", "scheduler"] | None = None  # whose turn it is, where both wait
        self._waiting = 0
        self._door = asyncio.Lock()  # the first of those that wait is inside
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: list[tuple[Callable[[], None], Callable[[], bool]]] = []

    @property
    def ceiling(self) -> int:
        """Requests allowed at once, when the server is not overloaded."""
        return self._concurrency.ceiling

    @property
    def limit(self) -> int:
        """Requests allowed at once, as the server is now."""
        return int(self._concurrency.limit)

    @property
    def counts_tokens(self) -> bool:
        return self._rate.tokens is not None

    @property
    def waiting(self) -> int:
        """Requests that pass by unread and wait for their turn."""
        return self._waiting

    def watch(self, watcher: Callable[[], None], wants: Callable[[], bool]) -> None:
        """Call `watcher`, a scheduler's, whenever there may be room; `wants` says whether it has anything to send."""
        self._watchers.append((watcher, wants))

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget what was under way on an event loop that is gone; limits and counters stay."""
        if loop is not self._loop:
            self._loop = loop
            self.in_flight = self._waiting = 0
            self._door = asyncio.Lock()
            self._changed = asyncio.Event()
            self._due = None

    def wait(self, now: float) -> float | None:
        """Seconds until the scheduler may send one more; None: not before something changes. Raises while parked.

        Where requests that pass by wait, too, they and the scheduler take turns.
        """
        if self._due == "passing" and self._waiting:
            return None
        return self._wait(now)

    def _wait(self, now: float) -> float | None:
        if self.in_flight >= self.limit:
            return None
        if now < self._parked_until:
            message = f"the server asked to wait {self._parked_until - now:.0f} s; try again then"
            raise RateLimited(message, endpoint=self.name, retryable=False, retry_after=self._parked_until - now)
        return max(self._rate.wait(), self._not_before - now, 0.0)

    def enter(self, tokens: int) -> Slot:
        self.in_flight += 1
        self.sent += 1
        self._rate.reserve(tokens)
        self._due = "passing"
        self._changed.set()
        return Slot(self.sent, tokens)

    def leave(self, slot: Slot) -> None:
        self.in_flight -= 1
        self._rate.settle(slot.reserved, slot.used)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        for watcher, wants in self._watchers:
            if wants():
                watcher()

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """A request's turn, first come, first served; the body is the request."""
        self.bind(asyncio.get_running_loop())
        self._waiting += 1
        try:
            async with self._door:
                await self._room()
                slot = self.enter(tokens)
                self._due = "scheduler"
        finally:
            self._waiting -= 1
            self._tell()
        try:
            yield slot
        finally:
            self.leave(slot)

    async def _room(self) -> None:
        """Wait until one more may be sent, and it is not the scheduler's turn."""
        loop = asyncio.get_running_loop()
        while True:
            theirs = self._due == "scheduler" and any(wants() for _, wants in self._watchers)
            wait = None if theirs else self._wait(loop.time())
            if wait == 0.0:
                return
            if wait is not None:
                await asyncio.sleep(wait)
                continue
            self._changed.clear()
            await self._changed.wait()

    def succeeded(self) -> None:
        self._retry_budget.earn()
        self._concurrency.succeeded()

    def failed(self, error: ModelError, slot: Slot, now: float) -> None:
        """Take to heart what an error says of the endpoint."""
        self._concurrency.failed(error, slot.ordinal, self.sent)
        if error.retry_after is None:
            return
        if error.retry_after > self.retry.max_retry_after:
            self._parked_until = now + error.retry_after
        elif error.retryable:
            self._not_before = max(self._not_before, now + error.retry_after)

    def retry_delay(self, error: ModelError, attempts: int, time_left: float) -> float | None:
        """Seconds to wait before attempt `attempts + 1`, or None where the error is to be raised."""
        return retry_delay(error, attempts, time_left, self.retry, self._retry_budget)
