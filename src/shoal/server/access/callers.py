"""Somebody who asks: how much they may ask for, and what they spent."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, time

from shoal.errors import BudgetExceeded
from shoal.runtime.budget import Budget
from shoal.runtime.limits import Bucket
from shoal.runtime.types import Usage
from shoal.server import records
from shoal.server.access.coverage import Covered
from shoal.server.access.ledger import Ledger, seconds_left_today
from shoal.server.names import Served
from shoal.server.refusals import Refusal
from shoal.server.settings import KeySettings

_MINUTE = 60.0  # what a bucket holds: who was quiet may ask for a minute's worth at once
_BROKEN_OFF = (asyncio.CancelledError, GeneratorExit, ConnectionError, BudgetExceeded)


def _nothing() -> Usage:
    return Usage()


class Caller:
    """Somebody with a key, or anybody where no keys are asked for. `spent` is what it cost since the server began."""

    def __init__(
        self,
        id_: str,
        settings: KeySettings | None = None,
        covered: Covered | None = None,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.id = id_
        self.settings = settings
        self.spent = Usage()
        self.in_flight = 0
        self._covered = covered
        self._ledger = ledger
        self._open: set[Budget] = set()
        rpm, tpm = (settings.rpm, settings.tpm) if settings is not None else (None, None)
        self._requests = Bucket(rpm, clock, holds=_MINUTE) if rpm else None
        self._tokens = Bucket(tpm, clock, holds=_MINUTE) if tpm else None
        self._a_day = settings.tokens_per_day if settings is not None else None

    def covers(self, served: Served) -> bool:
        """Whether the key covers a model and the techniques on it."""
        return self._covered is None or self._covered.refusal_for(served) is None

    def check(self, served: Served) -> None:
        """Refuse, with 403, a model or technique that the key does not cover."""
        records.note_model(served.name, served.base_name, served.slugs)
        refusal = None if self._covered is None else self._covered.refusal_for(served)
        if refusal is not None:
            raise refusal

    def check_metrics(self) -> None:
        """Refuse /metrics, which tells of all models, to a key that is for some of them."""
        if self.settings is None:
            return
        allowed = self.settings.metrics
        if not (allowed if allowed is not None else not self.settings.models):
            message = "this key does not open the metrics; metrics = true in its table would"
            raise Refusal(403, message, kind="permission_error", code="metrics_not_allowed")

    @contextmanager
    def admitted(self, budget: Budget, lost: Callable[[], Usage] = _nothing) -> Iterator[None]:
        """One request of the caller's; a Refusal with 429 where it is one too many.

        What the budget says was spent is the caller's to pay, call by call; whatever else it holds at the end is paid
        then. `lost` estimates what a request cost that was broken off, beyond that. When the day's tokens are gone, no
        request of the caller's makes another call.
        """
        self._admit()
        paid = Usage()

        def pay(usage: Usage) -> None:
            nonlocal paid
            paid = paid + usage
            self._pay(usage)

        self.in_flight += 1
        self._open.add(budget)
        budget.on_spent = pay
        try:
            yield
        except _BROKEN_OFF as error:
            budget.spent = budget.spent + lost()
            if isinstance(error, BudgetExceeded) and self._day_is_over():
                raise self._no_tokens_today() from None
            raise
        finally:
            self.in_flight -= 1
            self._open.discard(budget)
            budget.on_spent = None
            self._pay(_beyond(budget.spent, paid))
            records.note_usage(budget.spent)

    def _admit(self) -> None:
        if self.settings is not None and self.in_flight >= self.settings.max_in_flight:
            message = f"this key may have {self.settings.max_in_flight} requests at once"
            raise _too_many(message, 1.0, "concurrency_limit_exceeded")
        if self._day_is_over():
            raise self._no_tokens_today()
        if self._tokens is not None and (wait := self._tokens.wait()):
            raise _too_many(f"this key may spend {self._tokens.rate * 60:.0f} tokens a minute", wait)
        if self._requests is not None:
            if wait := self._requests.wait():
                raise _too_many(f"this key may make {self._requests.rate * 60:.0f} requests a minute", wait)
            self._requests.take(1)

    def _day_is_over(self) -> bool:
        return self._a_day is not None and self._ledger is not None and self._ledger.spent(self.id) >= self._a_day

    def _no_tokens_today(self) -> Refusal:
        message = f"this key's {self._a_day} tokens for today are spent; the day ends at midnight UTC"
        return _too_many(message, seconds_left_today(time()), "tokens_per_day_exceeded")

    def _pay(self, usage: Usage) -> None:
        self.spent = self.spent + usage
        tokens = usage.total_tokens
        if self._tokens is not None:
            self._tokens.take(tokens)
        if self._a_day is not None and self._ledger is not None and tokens:
            self._ledger.add(self.id, tokens)
            if self._day_is_over():
                for budget in self._open:
                    budget.stop("the key's tokens for today are spent")

    def headers(self) -> dict[str, str]:
        """What is left of the rates, as the OpenAI API tells it."""
        told: dict[str, str] = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                bucket.wait()  # fills it up to now
                told[f"x-ratelimit-limit-{name}"] = f"{bucket.rate * 60:.0f}"
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level + 1e-6)))
                told[f"x-ratelimit-reset-{name}"] = _duration((bucket.capacity - bucket.level) / bucket.rate)
        return told


def _too_many(message: str, wait: float, code: str = "rate_limit_exceeded") -> Refusal:
    return Refusal(429, message, kind="rate_limit_error", code=code, retry_after=wait)


def _beyond(spent: Usage, paid: Usage) -> Usage:
    return Usage(
        spent.prompt_tokens - paid.prompt_tokens,
        spent.completion_tokens - paid.completion_tokens,
        spent.calls - paid.calls,
        spent.cached_calls - paid.cached_calls,
        spent.cached_tokens - paid.cached_tokens,
        spent.estimated,
        spent.cached_prompt_tokens - paid.cached_prompt_tokens,
        spent.batch_prompt_tokens - paid.batch_prompt_tokens,
        spent.batch_completion_tokens - paid.batch_completion_tokens,
    )


def _duration(seconds: float) -> str:
    """Seconds as the API writes them: 6m0s, 1s, 20ms."""
    if seconds < 1:
        return f"{1000 * seconds:.0f}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
