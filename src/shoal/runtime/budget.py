"""A bound on what a run may spend: calls, tokens, seconds, dollars. Cached and shared draws cost nothing."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from decimal import Decimal
from time import monotonic
from typing import Protocol

from msgspec import Struct

from shoal.errors import BudgetExceeded, UsageError, did_you_mean
from shoal.runtime.limits import expected_tokens, most_tokens
from shoal.runtime.types import Completion, Request, Usage

_PICO = 10**12
_LIMITS = ("calls", "tokens", "seconds", "dollars")


class Rates(Struct, frozen=True):
    """Picodollars of one token, asked for live and by a provider's batch API: whole, so that sums are exact."""

    prompt: int = 0
    completion: int = 0
    batch_prompt: int = 0
    batch_completion: int = 0

    def of(self, usage: Usage) -> int:
        """What a usage costs."""
        live = usage.prompt_tokens - usage.batch_prompt_tokens, usage.completion_tokens - usage.batch_completion_tokens
        batch = usage.batch_prompt_tokens, usage.batch_completion_tokens
        return live[0] * self.prompt + live[1] * self.completion + self.batch(*batch)

    def batch(self, prompt_tokens: int, completion_tokens: int) -> int:
        return prompt_tokens * self.batch_prompt + completion_tokens * self.batch_completion


class Tariff(Struct, frozen=True):
    """What a call costs; one that surely goes `by_batch` has its price reserved, any other the live price."""

    rates: Rates
    by_batch: bool = False


class Reservation(Struct, frozen=True):
    """What calls may cost."""

    tokens: int = 0
    picodollars: int = 0
    calls: int = 1

    def __add__(self, other: "Reservation") -> "Reservation":
        calls = self.calls + other.calls
        return Reservation(self.tokens + other.tokens, self.picodollars + other.picodollars, calls)


class Budget:
    """Limits for everything that runs in its scope; the clock starts at the first call.

    Calls are exact: never one more. Tokens are reserved before a call (prompt length / 4 + max_tokens) and corrected
    after it; a call that does not fit waits for reserved tokens to come back and fails only when none will. So are
    dollars, of a prompt as long as it can possibly be; they need a known price for every model that is asked
    (UsageError where there is none).
    """

    def __init__(
        self,
        calls: int | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
        dollars: float | None = None,
    ) -> None:
        self.calls = calls
        self.tokens = tokens
        self.seconds = seconds
        self.dollars = dollars
        self.spent = Usage()
        self.reserving = True  # False where whoever makes the calls sees to it that their tokens fit
        self.on_spent: Callable[[Usage], None] | None = None  # told of what each call cost when it ends
        self._reserved = Reservation(calls=0)
        self._most_picodollars = None if dollars is None else int(Decimal(str(dollars)) * _PICO)
        self._spent_picodollars = 0
        self._deadline: float | None = None
        self._waiting: deque[tuple[Reservation, asyncio.Future[str | None]]] = deque()
        self._stopped: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """A budget from `calls=100,tokens=1e6,seconds=60,dollars=2.50`."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in _LIMITS:
                raise UsageError(f"budget {name!r}: {did_you_mean(name, _LIMITS)}")
            try:
                limits[name] = float(value)
            except ValueError:
                raise UsageError(f"budget {name}={value!r} is not a number") from None
            if not 0 <= limits[name] < float("inf"):
                raise UsageError(f"budget {name}={value} must be a finite number of at least 0")
        whole = {name: int(value) for name, value in limits.items() if name in ("calls", "tokens")}
        return cls(whole.get("calls"), whole.get("tokens"), limits.get("seconds"), limits.get("dollars"))

    @property
    def spent_dollars(self) -> float:
        """What was paid so far; 0.0 where the budget is not one of dollars, and prices are not looked up."""
        return self._spent_picodollars / _PICO

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

    async def reserve(self, what: Reservation) -> None:
        """Take a call from the budget, waiting for what other calls may give back."""
        short = self._taken(what)
        if short is not None and self._may_come_back():
            told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            self._waiting.append((what, told))
            try:
                short = await told
            except asyncio.CancelledError:
                if not told.cancelled() and told.result() is None:
                    self._give_back(what)
                self._wake()
                raise
        if short is not None:
            raise BudgetExceeded(short)

    def _taken(self, what: Reservation) -> str | None:
        """Reserve it; or why the budget has not that much left."""
        short = self._short_of(what)
        if short is None:
            self._reserved = self._reserved + what
        return short

    def _give_back(self, what: Reservation) -> None:
        held = self._reserved
        left = held.tokens - what.tokens, held.picodollars - what.picodollars, held.calls - what.calls
        self._reserved = Reservation(*left)

    def _may_come_back(self) -> bool:
        return bool(self._reserved.calls) and not self._stopped and not self._out_of_time()

    def _short_of(self, what: Reservation) -> str | None:
        """Why the budget has not that much left; None where it has."""
        if self._stopped is not None:
            return self._stopped
        if self._out_of_time():
            return f"the budget of {self.seconds:g} seconds is spent"
        taken, spent = self._reserved + what, self.spent
        if self.calls is not None and spent.calls + taken.calls > self.calls:
            return f"the budget of {self.calls} calls is spent"
        if self.tokens is not None and spent.total_tokens + taken.tokens > self.tokens:
            total = spent.total_tokens
            return f"the budget of {self.tokens} tokens is spent ({total} used, the next call may need {what.tokens})"
        most = self._most_picodollars
        if most is not None and what.picodollars and self._spent_picodollars + taken.picodollars > most:
            used, next_ = _shown(self._spent_picodollars), _shown(what.picodollars)
            return f"the budget of {_shown(most)} is spent ({used} used, the next call may need {next_})"
        return None

    def settle(self, what: Reservation, usage: Usage, rates: Rates | None = None) -> None:
        """Give back a reservation and note what was really spent."""
        self._give_back(what)
        self.spent = self.spent + usage
        if rates is not None:
            self._spent_picodollars += rates.of(usage)
        if self.on_spent is not None:
            self.on_spent(usage)
        self._wake()

    def _wake(self) -> None:
        """Tell those who wait, in their order, that they have what they asked for, or that nothing will come back."""
        while self._waiting:
            what, told = self._waiting[0]
            if not told.done():
                short = self._taken(what)
                if short is not None and self._may_come_back():
                    return
                told.set_result(short)
            self._waiting.popleft()


def _shown(picodollars: int) -> str:
    return f"${(Decimal(picodollars) / _PICO).normalize():,f}"


current: ContextVar[Budget | None] = ContextVar("budget", default=None)


class Shares(Protocol):
    """A Model under which equal draws are one: a scheduler, or a router over several."""

    def has_under_way(self, request: Request) -> bool: ...
    async def __call__(self, request: Request, /) -> Completion: ...


class Budgeted:
    """A scheduler that spends from the budget in scope, where there is one.

    `tariff` says what a call costs, and raises UsageError where nobody knows; it is asked where a budget is in dollars.
    """

    def __init__(self, model: Shares, tariff: Callable[[Request], Tariff] = lambda _: Tariff(Rates())) -> None:
        self.model = model
        self.tariff = tariff
        self._waiting: dict[tuple[Budget, Request], asyncio.Future[None]] = {}  # until the first has its reservation

    async def __call__(self, request: Request, /) -> Completion:
        budget = current.get()
        if budget is None:
            return await self.model(request)
        tariff = self.tariff(request) if budget.dollars is not None else None
        what = _reservation(budget, request, tariff)
        if not await self._reserved(budget, request, what):  # shared with the caller who pays for it
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
            budget.settle(what, usage, tariff.rates if tariff is not None else None)

    async def _reserved(self, budget: Budget, request: Request, what: Reservation) -> bool:
        """Take a call from the budget; False where another caller pays for this very draw, also once both waited."""
        place = budget, request
        while (first := self._waiting.get(place)) is not None:
            await asyncio.wait((first,))
        if self.model.has_under_way(request):
            return False
        mine = self._waiting[place] = asyncio.get_running_loop().create_future()
        try:
            await budget.reserve(what)
        finally:
            del self._waiting[place]
            mine.set_result(None)
        return True


def _reservation(budget: Budget, request: Request, tariff: Tariff | None) -> Reservation:
    tokens = expected_tokens(request) if budget.tokens is not None and budget.reserving else 0
    if tariff is None:
        return Reservation(tokens)
    most = most_tokens(request)
    rates = tariff.rates
    return Reservation(tokens, rates.batch(*most) if tariff.by_batch else rates.of(Usage(*most)))
