"""Requests and tokens a minute, by a clock of the test's own."""

import pytest

from shoal.errors import ConnectionFailed, RateLimited
from shoal.runtime.limits import AdaptiveConcurrency, Bucket, Limits, RateLimit, expected_tokens
from shoal.runtime.retry import RetryBudget, RetryPolicy, retry_delay
from shoal.runtime.types import Request


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def send_for(seconds: float, limit: RateLimit, clock: Clock, tokens: int = 0) -> int:
    """How many requests leave in that time when as many as allowed do."""
    end, sent = clock.now + seconds, 0
    while clock.now <= end:
        wait = limit.wait()
        if wait:
            clock.now += wait
        else:
            limit.reserve(tokens)
            sent += 1
    return sent


def test_requests_a_minute() -> None:
    clock = Clock()
    assert send_for(60, RateLimit(Limits(rpm=100), clock), clock) in (101, 102)
    clock = Clock()
    assert send_for(600, RateLimit(Limits(rpm=1), clock), clock) in (10, 11)


def test_tokens_a_minute() -> None:
    clock = Clock()
    sent = send_for(60, RateLimit(Limits(tpm=10_000), clock), clock, tokens=500)
    assert 20 <= sent <= 21


def test_a_request_larger_than_the_bucket_passes_and_is_paid_off() -> None:
    clock = Clock()
    limit = RateLimit(Limits(tpm=600), clock)
    limit.reserve(1200)
    assert limit.wait() == pytest.approx(120, abs=1)


def test_a_reservation_is_corrected() -> None:
    clock = Clock()
    limit = RateLimit(Limits(tpm=6000), clock)
    limit.reserve(6000)
    limit.settle(6000, 100)
    assert limit.wait() == pytest.approx(0.01, abs=0.011)


def test_a_long_silence_saves_up_one_second_only() -> None:
    clock = Clock()
    bucket = Bucket(600, clock)
    clock.now += 3600
    assert bucket.wait() == 0
    assert bucket.level == 10


def test_concurrency_is_cut_once_a_round_and_grows_slowly() -> None:
    concurrency = AdaptiveConcurrency(64)
    concurrency.failed(RateLimited("x"), 10, 64)
    concurrency.failed(RateLimited("x"), 60, 64)  # sent before the cut
    assert concurrency.limit == 32
    concurrency.failed(RateLimited("x"), 65, 96)
    assert concurrency.limit == 16
    for _ in range(16):
        concurrency.succeeded()
    assert 16.9 < concurrency.limit < 17.1
    concurrency.failed(ConnectionFailed("x"), 200, 200)  # no sign of overload
    assert concurrency.limit > 16
    for _ in range(10_000):
        concurrency.succeeded()
    assert concurrency.limit == 64


def test_back_off_is_full_jitter_under_a_cap() -> None:
    policy, budget = RetryPolicy(cap=3.0), RetryBudget(10**9)
    for attempts, highest in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 3.0)):
        delays = [retry_delay(ConnectionFailed("x"), attempts, 600, policy, budget) for _ in range(300)]
        assert all(d is not None and 0 <= d <= highest for d in delays)
        assert max(d for d in delays if d is not None) > 0.8 * highest


def test_retry_after_is_never_early_and_bounded() -> None:
    policy, budget = RetryPolicy(), RetryBudget()
    delay = retry_delay(RateLimited("x", retry_after=10), 1, 600, policy, budget)
    assert delay is not None
    assert 10 <= delay <= 11
    assert retry_delay(RateLimited("x", retry_after=121), 1, 600, policy, budget) is None
    assert retry_delay(RateLimited("x", retry_after=60), 1, 30, policy, budget) is None


def test_an_empty_retry_budget_ends_retries_and_success_earns_them_back() -> None:
    policy, budget = RetryPolicy(), RetryBudget(10)
    assert retry_delay(ConnectionFailed("x"), 1, 600, policy, budget) is not None
    assert retry_delay(ConnectionFailed("x"), 1, 600, policy, budget) is not None
    assert retry_delay(ConnectionFailed("x"), 1, 600, policy, budget) is None
    for _ in range(5):
        budget.earn()
    assert retry_delay(ConnectionFailed("x"), 1, 600, policy, budget) is not None


def test_expected_tokens() -> None:
    assert expected_tokens(Request.of("x" * 400, max_tokens=50), n=2) == 200
