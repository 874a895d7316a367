"""Comparing a technique with single samples: intervals, and how far the same tokens go in plain samples."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import sqrt
from typing import NamedTuple

_Z = 1.959963984540054  # 95 %, both sides


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def wilson(right: int, count: int) -> Interval:
    """A proportion with Wilson's score interval."""
    if not count:
        return Interval(0.0, 0.0, 1.0)
    share = right / count
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(values: Sequence[float], resamples: int = 5000) -> Interval:
    """The mean of a value a row, with the percentile interval of resampled rows. The same values, the same interval.

    Of differences between two systems on the same rows this is the paired bootstrap.
    """
    chance = random.Random(0)
    count = len(values)
    means = sorted(sum(chance.choices(values, k=count)) / count for _ in range(resamples))
    return Interval(sum(values) / count, means[int(0.025 * resamples)], means[int(0.975 * resamples)])


class Draw(NamedTuple):
    """A single sample: what it voted for (None: no answer found), whether that is right, and what it cost."""

    vote: str | None
    right: float
    tokens: int


def draws_within(draws: Sequence[Draw], prompt_tokens: int, budget: int) -> int:
    """How many draws, from the first on, fit in a budget of tokens; one at least.

    Draws of one question share its prompt, as in the wire requests that shoal makes of them.
    """
    spent = accumulate((draw.tokens for draw in draws), initial=prompt_tokens)
    return max(1, sum(cost <= budget for cost in spent) - 1)


def majority(draws: Sequence[Draw]) -> float:
    """Whether the answer of most draws is right; ties go to the earliest, draws without an answer do not vote."""
    counts = Counter(draw.vote for draw in draws if draw.vote is not None)
    if not counts:
        return draws[0].right
    winner = counts.most_common(1)[0][0]  # of equal counts the first that was met
    return next(draw.right for draw in draws if draw.vote == winner)


class Equal(NamedTuple):
    """A vote over as many draws as fit in a budget: how often it is right, over how many draws.

    `short`: the pool held fewer draws than would have fitted.
    """

    right: float
    draws: float
    short: bool


def equal_tokens(pool: Sequence[Draw], prompt_tokens: int, budget: int) -> Equal:
    """The mean over all places of the pool to begin at, going round: less chance than in one run of draws."""
    votes, counts = [], []
    for start in range(len(pool)):
        turned = [*pool[start:], *pool[:start]]
        counts.append(draws_within(turned, prompt_tokens, budget))
        votes.append(majority(turned[: counts[-1]]))
    cheapest = min(draw.tokens for draw in pool)
    left = budget - prompt_tokens - sum(draw.tokens for draw in pool)
    return Equal(sum(votes) / len(votes), sum(counts) / len(counts), left >= cheapest)
