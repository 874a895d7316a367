"""What an endpoint lets in now: its rates, how many requests at once, and the waits it asked for.

One for each endpoint, shared by all that is sent to it: the scheduler's wire requests, and those that pass by unread.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
        self._queue: deque[asyncio.Future[None]] = deque()
        self._watchers: list[Callable[[], None]] = []

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

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` whenever a request ends, for it may have made room."""
        self._watchers.append(watcher)

    def forget(self) -> None:
        """An event loop is gone, and with it all that was under way; limits and counters stay."""
        self.in_flight = 0
        self._queue.clear()

    def wait(self, now: float) -> float | None:
        """Seconds until one more may be sent; None: not before one that is under way ends. Raises while parked."""
        if self.in_flight >= self.limit:
            return None
        if now < self._parked_until:
            message = f"the server asked to wait {self._parked_until - now:.0f} s; try again then"
            raise RateLimited(message, endpoint=self.name, retryable=False, retry_after=self._parked_until - now)
        return self.pause(now)

    def pause(self, now: float) -> float:
        """Seconds until rates and the waits that the server asked for let one more through."""
        return max(self._rate.wait(), self._not_before - now, 0.0)

    def room(self, now: float, tokens: int) -> float:
        """How many requests of so many tokens rates and waits let through at once now."""
        return 0 if now < self._not_before else self._rate.room(tokens)

    def enter(self, tokens: int) -> Slot:
        self.in_flight += 1
        self.sent += 1
        self._rate.reserve(tokens)
        return Slot(self.sent, tokens)

    def leave(self, slot: Slot) -> None:
        self.in_flight -= 1
        self._rate.settle(slot.reserved, slot.used)
        self._give_turn()
        for watcher in self._watchers:
            watcher()

    def _give_turn(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """A request's turn, first come, first served; the body is the request."""
        loop = asyncio.get_running_loop()
        while (wait := self.wait(loop.time())) != 0.0:
            if wait is None:
                turn: asyncio.Future[None] = loop.create_future()
                self._queue.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    if not turn.cancelled():  # it was given to somebody who has gone
                        self._give_turn()
                    raise
            else:
                await asyncio.sleep(wait)
        slot = self.enter(tokens)
        try:
            yield slot
        finally:
            self.leave(slot)

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
