"""What an endpoint lets in now: its rates, how many requests at once, and the waits it asked for.

One for each endpoint, shared by all that is sent to it: the scheduler's wire requests, and those that pass by unread.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count

from shoal.errors import ModelError, RateLimited
from shoal.runtime import scope
from shoal.runtime.limits import AdaptiveConcurrency, Limits, RateLimit
from shoal.runtime.retry import RetryBudget, RetryPolicy, retry_delay


class Slot:
    """One request under way. `used` is what it took in tokens, once that is known."""

    __slots__ = ("ordinal", "reserved", "used")

    def __init__(self, ordinal: int, reserved: int) -> None:
        self.ordinal = ordinal
        self.reserved = reserved
        self.used = 0


class Turn:
    """A request that comes to its turn where the context is entered, and leaves with it. `slot` is there from then."""

    __slots__ = ("_admission", "_tokens", "slot")

    def __init__(self, admission: "Admission", tokens: int) -> None:
        self._admission = admission
        self._tokens = tokens
        self.slot: Slot | None = None

    async def __aenter__(self) -> Slot:
        self.slot = await self._admission.come(self._tokens)
        return self.slot

    async def __aexit__(self, *_: object) -> None:
        assert self.slot is not None
        self._admission.leave(self.slot)


class Admission:
    """Who may send, and when. `sent` counts requests, `in_flight` those under way, `errors` failures by their class."""

    def __init__(self, limits: Limits, ceiling: int, retry: RetryPolicy, name: str) -> None:
        self.retry = retry
        self.name = name
        self.in_flight = self.sent = 0
        self.errors: Counter[str] = Counter()
        self._rate = RateLimit(limits)
        self._concurrency = AdaptiveConcurrency(limits.max_in_flight or ceiling)
        self._retry_budget = RetryBudget()
        self._not_before = 0.0  # the server asked everybody to wait until then
        self._parked_until = 0.0
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap by age and order
        self._order = count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm: asyncio.TimerHandle | None = None  # set where rates make the first of the queue wait
        self._watchers: list[tuple[Callable[[], None], Callable[[], int | None]]] = []

    @property
    def ceiling(self) -> int:
        """Requests allowed at once, when the server is not overloaded."""
        return self._concurrency.ceiling

    @property
    def limit(self) -> int:
        """Requests allowed at once, as the server is now."""
        return int(self._concurrency.limit)

    @property
    def waiting(self) -> int:
        """Requests that pass by unread and wait for their turn."""
        return sum(not turn.done() for _, _, turn in self._queue)

    @property
    def counts_tokens(self) -> bool:
        return self._rate.tokens is not None

    def watch(self, watcher: Callable[[], None], oldest: Callable[[], int | None]) -> None:
        """Call `watcher` whenever a request ends, for it may have made room.

        `oldest` tells the age of the oldest request waiting there. One that calls `give_turn` when it has sent all that
        waited is served before whatever is younger.
        """
        self._watchers.append((watcher, oldest))

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget what was under way in an event loop that is gone, if this is another; limits and counters stay."""
        if loop is self._loop:
            return
        self._loop = loop
        self.in_flight = 0
        self._queue.clear()
        self._no_alarm()

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
        self.give_turn()
        for watcher, _ in self._watchers:
            watcher()

    def give_turn(self) -> None:
        """Wake the oldest that waits for a slot, now or when rates allow one more."""
        self._no_alarm()
        while self._queue and self._queue[0][2].done():  # who has gone
            heapq.heappop(self._queue)
        if not self._queue or self._older_elsewhere(self._queue[0][0]):
            return
        assert self._loop is not None
        try:
            wait = self.wait(self._loop.time())
        except ModelError:
            wait = 0.0  # raised again where it is waited for
        if wait:
            self._alarm = self._loop.call_later(wait, self.give_turn)
        elif wait is not None:
            heapq.heappop(self._queue)[2].set_result(None)

    def _no_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _older_elsewhere(self, age: int) -> bool:
        return any((oldest := ask()) is not None and oldest < age for _, ask in self._watchers)

    def slot(self, tokens: int) -> Turn:
        """A request's turn, the oldest first (`scope.age`), then first come, first served; the body is the request."""
        return Turn(self, tokens)

    async def come(self, tokens: int) -> Slot:
        """Enter when it is one's turn, see `slot`."""
        loop = asyncio.get_running_loop()
        self.bind(loop)
        age, order = scope.age.get(), next(self._order)
        while not self._is_turn_of(age, order, loop.time()):
            turn: asyncio.Future[None] = loop.create_future()
            heapq.heappush(self._queue, (age, order, turn))
            self.give_turn()
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it was given to somebody who has gone
                    self.give_turn()
                raise
        slot = self.enter(tokens)
        self.give_turn()  # there may be room for one more
        return slot

    def _is_turn_of(self, age: int, order: int, now: float) -> bool:
        if (self._queue and self._queue[0][:2] < (age, order)) or self._older_elsewhere(age):
            return False
        try:
            return self.wait(now) == 0.0
        except ModelError:
            self.give_turn()  # whoever waits is to be told, too
            raise

    def succeeded(self) -> None:
        self._retry_budget.earn()
        self._concurrency.succeeded()

    def failed(self, error: ModelError, slot: Slot, now: float) -> None:
        """Take to heart what an error says of the endpoint."""
        self.errors[type(error).__name__] += 1
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
