"""From some rows to the rest: a prediction interval for the total of rows that have not been seen."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95
FEWEST_ROWS = 4  # of which a spread can be told


def predicted(
    values: Sequence[float], rest: int, *, least: float = -math.inf, most: float = math.inf
) -> tuple[float, float]:
    """Between which the total of `rest` more rows lies, at a confidence of 95 %, from `values` of rows like them.

    The interval is Student's for a sum of new values: `rest` times the mean, and about it t times s times
    sqrt(rest (rest + k) / k). It knows nothing of values that are rare, and of k rows alike it makes a point. So where
    `least` and `most` of a row are known, s is taken as if both had been seen once more, and the interval reaches at
    least as far as the share of rows that k draws can miss with a chance of 2.5 % (1 - 0.025 ** (1 / k)) may carry the
    total, were they all at that end.
    """
    k, mean = len(values), fmean(values)
    ends = [end for end in (least, most) if math.isfinite(end)]
    half = t_quantile(k - 1) * stdev([*values, *ends]) * math.sqrt(rest * (rest + k) / k)
    missed = rest * (1 - ((1 - CONFIDENCE) / 2) ** (1 / k))
    low = high = rest * mean
    if math.isfinite(least):
        low -= missed * max(0.0, min(values) - least)
    if math.isfinite(most):
        high += missed * max(0.0, most - max(values))
    return min(low, rest * mean - half), max(high, rest * mean + half)


def t_quantile(freedom: int) -> float:
    """The quantile of Student's t that leaves 2.5 % above it, for 3 or more degrees of freedom, to within 0.2 %.

    The expansion of Fisher and Cornish about the normal's quantile (Abramowitz and Stegun, 26.7.5).
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
