"""When to try a failed wire request again, and when to stop.

Whether an error may be retried is the error's own property. How often is bounded three ways: attempts and total time of
one call, and a budget per endpoint, so that an outage is not answered with a multiple of the load.
"""

import random

from msgspec import Struct

from shoal.errors import ModelError


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
