"""Calls that are no draws are asked again by the same rules."""

import asyncio

import pytest

from shoal.errors import BadRequest, DeadlineExceeded, ServerError
from shoal.runtime.retry import RetryBudget, RetryPolicy, retried

AT_ONCE = RetryPolicy(base=0.0)


class Failing:
    """Raises `error` the first `times` times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error = error
        self.times = times
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return self.calls


def test_what_may_be_retried_is() -> None:
    assert asyncio.run(retried(Failing(ServerError("x"), 3), AT_ONCE, RetryBudget())) == 4


def test_attempts_kinds_and_the_budget_bound_it() -> None:
    for call, policy, budget, calls in (
        (Failing(ServerError("x"), 99), AT_ONCE, RetryBudget(), 6),
        (Failing(BadRequest("x"), 99), AT_ONCE, RetryBudget(), 1),
        (Failing(ServerError("x"), 99), AT_ONCE, RetryBudget(5), 2),
    ):
        with pytest.raises(type(call.error)):
            asyncio.run(retried(call, policy, budget))
        assert call.calls == calls


def test_a_call_that_never_ends_does() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
        asyncio.run(retried(never, RetryPolicy(deadline=0.01), RetryBudget()))
