"""A bound on what a run may spend: calls, tokens, seconds. Cached and shared draws cost nothing."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Protocol

from shoal.errors import BudgetExceeded, UsageError, did_you_mean
from shoal.runtime.limits import expected_tokens
from shoal.runtime.types import Completion, Request, Usage


class Budget:
    """Limits for everything that runs in its scope; the clock starts at the first call.

    Calls are exact: never one more. Tokens are reserved before a call (prompt length / 4 + max_tokens) and corrected
    after it; a call that does not fit waits for reserved tokens to come back and fails only when none will.
    """

    def __init__(self, calls: int | None = None, tokens: int | None = None, seconds: float | None = None) -> None:
        self.calls = calls
        self.tokens = tokens
        self.seconds = seconds
        self.spent = Usage()
        self.reserving = True  # False where whoever makes the calls sees to it that their tokens fit
        self.on_spent: Callable[[Usage], None] | None = None  # told of what each call cost when it ends
        self._reserved_calls = self._reserved_tokens = 0
        self._deadline: float | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()  # how much each waits for, the first first
        self._stopped: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """A budget from `calls=100,tokens=1e6,seconds=60`."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in ("calls", "tokens", "seconds"):
                raise UsageError(f"budget {name!r}: {did_you_mean(name, ('calls', 'tokens', 'seconds'))}")
            try:
                limits[name] = float(value)
            except ValueError:
                raise UsageError(f"budget {name}={value!r} is not a number") from None
            if not 0 <= limits[name] < float("inf"):
                raise UsageError(f"budget {name}={value} must be a finite number of at least 0")
        whole = {name: int(value) for name, value in limits.items() if name != "seconds"}
        return cls(whole.get("calls"), whole.get("tokens"), limits.get("seconds"))

    def stop(self, reason: str) -> None:
        """Allow no further call; those under way go on."""
        self._stopped = reason
        self._wake()

    def seconds_left(self) -> float | None:
        if self.seconds is None:
            return None
        if self._deadline is None:
            self._deadline = monotonic() + self.seconds
        return self._deadline - monotonic()

    def _out_of_time(self) -> bool:
        left = self.seconds_left()
        return left is not None and left <= 0

    async def reserve(self, tokens: int) -> None:
        """Take one call and `tokens` from the budget, waiting for what other calls may give back."""
        while (short := self._short_of(tokens)) is not None:
            if not self._reserved_calls or self._stopped or self._out_of_time():
                raise BudgetExceeded(short)
            back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((tokens, back))
            try:
                await back
            except asyncio.CancelledError:
                self._wake()  # what it was woken for, another may have
                raise
        self._reserved_calls += 1
        self._reserved_tokens += tokens

    def _short_of(self, tokens: int, calls: int = 0) -> str | None:
        if self._stopped is not None:
            return self._stopped
        if self._out_of_time():
            return f"the budget of {self.seconds:g} seconds is spent"
        if self.calls is not None and self.spent.calls + self._reserved_calls + calls >= self.calls:
            return f"the budget of {self.calls} calls is spent"
        if self.tokens is not None and self.spent.total_tokens + self._reserved_tokens + tokens > self.tokens:
            spent = self.spent.total_tokens
            return f"the budget of {self.tokens} tokens is spent ({spent} used, the next call may need {tokens})"
        return None

    def settle(self, tokens: int, usage: Usage) -> None:
        """Give back a reservation and note what was really spent."""
        self._reserved_calls -= 1
        self._reserved_tokens -= tokens
        self.spent = self.spent + usage
        if self.on_spent is not None:
            self.on_spent(usage)
        self._wake()

    def _wake(self) -> None:
        """Wake those who wait, in their order, as far as what is free goes; all where nothing more will come back."""
        over = not self._reserved_calls or self._stopped is not None or self._out_of_time()
        tokens = calls = 0  # of those woken here, who have yet to reserve them
        while self._waiting:
            wanted, back = self._waiting[0]
            if not back.done():
                if not over and self._short_of(tokens + wanted, calls) is not None:
                    return
                tokens, calls = tokens + wanted, calls + 1
                back.set_result(None)
            self._waiting.popleft()


current: ContextVar[Budget | None] = ContextVar("budget", default=None)


class Shares(Protocol):
    """A Model under which equal draws are one: a scheduler, or a router over several."""

    def has_under_way(self, request: Request) -> bool: ...
    async def __call__(self, request: Request, /) -> Completion: ...


class Budgeted:
    """A scheduler that spends from the budget in scope, where there is one."""

    def __init__(self, model: Shares) -> None:
        self.model = model
        self._waiting: dict[tuple[Budget, Request], asyncio.Future[None]] = {}  # until the first has its reservation

    async def __call__(self, request: Request, /) -> Completion:
        budget = current.get()
        if budget is None:
            return await self.model(request)
        tokens = expected_tokens(request) if budget.tokens is not None and budget.reserving else 0
        if not await self._reserved(budget, request, tokens):  # shared with the caller who pays for it
            return await self.model(request)
        usage = Usage()
        timer = asyncio.timeout(budget.seconds_left())
        try:
            async with timer:
                completion = await self.model(request)
            usage = completion.usage
            return completion
        except TimeoutError:
            if not timer.expired():
                raise
            raise BudgetExceeded(f"the budget of {budget.seconds:g} seconds is spent") from None
        finally:
            budget.settle(tokens, usage)

    async def _reserved(self, budget: Budget, request: Request, tokens: int) -> bool:
        """Take a call from the budget; False where another caller pays for this very draw, also once both waited."""
        place = budget, request
        while (first := self._waiting.get(place)) is not None:
            await asyncio.wait((first,))
        if self.model.has_under_way(request):
            return False
        mine = self._waiting[place] = asyncio.get_running_loop().create_future()
        try:
            await budget.reserve(tokens)
        finally:
            del self._waiting[place]
            mine.set_result(None)
        return True
