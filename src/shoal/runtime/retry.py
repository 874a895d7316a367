"""When to try a failed wire request again, and when to stop.

Whether an error may be retried is the error's own property. How often is bounded three ways: attempts and total time of
one call, and a budget per endpoint, so that an outage is not answered with a multiple of the load.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from shoal.errors import DeadlineExceeded, ModelError

T = TypeVar("T")


class RetryPolicy(Struct, frozen=True):
    """attempts: wire requests a draw may cost; base, cap: seconds of full-jitter back-off; deadline: seconds a call may
    take from its first wire request to its last, waits included; max_retry_after: a longer wait asked by the server
    parks the endpoint."""

    attempts: int = 6
    base: float = 0.5
    cap: float = 30.0
    deadline: float = 600.0
    max_retry_after: float = 120.0


class RetryBudget:
    """Tokens that retries cost and successes earn back (the AWS SDKs' rule: 500, 5 a retry, 10 after a timeout)."""

    def __init__(self, capacity: int = 500) -> None:
        self.capacity = self.tokens = capacity

    def spend(self, cost: int) -> bool:
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def earn(self) -> None:
        self.tokens = min(self.capacity, self.tokens + 1)


def retry_delay(
    error: ModelError, attempts: int, time_left: float, policy: RetryPolicy, budget: RetryBudget
) -> float | None:
    """Seconds to wait before attempt `attempts + 1`, or None where the error is to be raised."""
    if not error.retryable or attempts >= min(policy.attempts, error.max_attempts):
        return None
    if error.retry_after is not None:
        if error.retry_after > policy.max_retry_after:
            return None
        delay = error.retry_after * random.uniform(1.0, 1.1)  # never early, and not all at once
    else:
        delay = random.uniform(0.0, min(policy.cap, policy.base * 2 ** (attempts - 1)))
    if delay >= time_left or not budget.spend(error.retry_cost):
        return None
    return delay


async def retried(call: Callable[[], Awaitable[T]], policy: RetryPolicy, budget: RetryBudget) -> T:
    """`call()`, again where its error allows it: for calls that are no draws and pass no scheduler."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + policy.deadline
    attempts = 0
    while True:
        attempts += 1
        try:
            async with asyncio.timeout_at(deadline):
                result = await call()
        except TimeoutError:
            raise DeadlineExceeded(f"no whole answer within {policy.deadline:g} s", retryable=False) from None
        except ModelError as error:
            delay = retry_delay(error, attempts, deadline - loop.time(), policy, budget)
            if delay is None:
                raise
        else:
            budget.earn()
            return result
        await asyncio.sleep(delay)
