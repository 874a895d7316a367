"""How sure a figure is: 95 % intervals, and tests of differences on the same rows.

Shares of rows have closed forms: Wilson's score interval for one, Bonett and Price's adjusted interval for the
difference of two on the same rows (doi:10.3102/1076998611411915), McNemar's exact test. Other figures and differences
are bootstrapped over rows (bias-corrected and accelerated) and tested by exchanging the two arms' rows at random.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any

from msgspec import Struct

from shoal.errors import UsageError
from shoal.evaluation.comparing.result import Interval
from shoal.evaluation.metrics import ACCURACY, Metric

_Z = 1.959963984540054  # of a two-sided 95 %
_REPLICATES, _FEWEST = 10_000, 1_000
_AT_ONCE = 2_000_000  # numbers held at once


class Test(Struct, frozen=True):
    """One arm's figure less another's on the same rows, its interval, and the p-value of there being no difference."""

    value: float
    interval: Interval
    p: float
    wins: int
    losses: int
    ties: int


def require() -> None:
    """UsageError where what this module needs is not installed."""
    try:
        import numpy  # noqa: F401
        import scipy.special  # noqa: F401
    except ImportError as error:
        raise UsageError(f"comparing needs {error.name}; pip install 'shoal[evaluation]'") from None


# Shares of rows


def wilson(share: float, rows: float) -> Interval:
    """Wilson's score interval of a share of `rows` independent rows; all that is possible where there are none."""
    if rows <= 0:
        return Interval(0.0, 1.0)
    shrink = 1 + _Z * _Z / rows
    middle = (share + _Z * _Z / (2 * rows)) / shrink
    half = _Z * sqrt(share * (1 - share) / rows + _Z * _Z / (4 * rows * rows)) / shrink
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def averaged(scores: Sequence[float]) -> Interval:
    """The interval of a mean of scores from 0 to 1 that need be neither.

    It is Wilson's, over as many all-or-nothing rows as would spread as the scores do. One such row is added to what
    they spread by: few scores close together would else be taken for surer than they are.
    """
    rows = len(scores)
    mean = sum(scores) / rows
    whole = mean * (1 - mean)
    spread = (sum((score - mean) ** 2 for score in scores) + whole) / max(rows - 1, 1)
    return wilson(mean, rows * max(1.0, whole / spread if spread > 0 else 1.0))


def paired_shares(wins: int, losses: int, rows: int) -> Interval:
    """The interval of (wins - losses) / rows, where a win is a row that only the second arm gets right."""
    won, lost = (wins + 1) / (rows + 2), (losses + 1) / (rows + 2)
    middle = won - lost
    half = _Z * sqrt((won + lost - middle * middle) / (rows + 2))
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided p of McNemar's exact test: were the arms alike, a win would be as likely as a loss."""
    from scipy.stats import binom

    return min(1.0, 2 * float(binom.cdf(min(wins, losses), wins + losses, 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm): each as likely under chance for the whole family."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        adjusted[i] = highest
    return adjusted


# Any figure


class Rated(Struct, frozen=True):
    """An arm's rows: the score of each, and what it adds to the metric's sums."""

    scores: list[float]
    parts: list[tuple[float, ...]]


class Figures:
    """The figure of each of several arms over the same rows, how sure it is, and how sure their differences are."""

    def __init__(self, metric: Metric, arms: Sequence[Rated], seed: int = 0) -> None:
        self.metric = metric
        self.arms = arms
        self.rows = len(arms[0].scores)
        self._mean = metric.value is ACCURACY.value  # whatever its name
        self.shares = self._mean and all(score in (0.0, 1.0) for arm in arms for score in arm.scores)
        self._seed = seed
        self._replicates: Any = None

    def value(self, i: int) -> float:
        return self.metric.value([sum(column) for column in zip(*self.arms[i].parts, strict=True)])

    def interval(self, i: int) -> Interval:
        """Of arm i's figure."""
        value = self.value(i)
        if self.shares:
            return wilson(value, self.rows)
        if self._mean:
            return averaged(self.arms[i].scores)
        drawn, parts = self._bootstrapped(i), self._parts(i)
        if _alike(drawn) and 0 <= value <= 1:  # rows all alike say nothing of their spread
            return wilson(value, int((parts != 0).any(axis=1).sum()))
        return _bca(drawn, value, self._left_out(i))

    def test(self, i: int, j: int) -> Test:
        """Arm j against arm i."""
        pairs = list(zip(self.arms[i].scores, self.arms[j].scores, strict=True))
        wins, losses = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
        value = self.value(j) - self.value(i)
        if self.shares:
            interval, p = paired_shares(wins, losses, self.rows), mcnemar(wins, losses)
        else:
            drawn = self._bootstrapped(j) - self._bootstrapped(i)
            interval = _bca(drawn, value, self._left_out(j) - self._left_out(i))
            if _alike(drawn):
                interval = _changed(pairs) if self._mean else paired_shares(wins, losses, self.rows)
            p = self._exchanged(i, j)
        return Test(value, interval, p, wins, losses, self.rows - wins - losses)

    def _parts(self, i: int) -> Any:
        import numpy as np

        return np.array(self.arms[i].parts, dtype=float)

    def _figures(self, sums: Any) -> Any:
        """The metric of each row of sums."""
        import numpy as np

        return np.array([self.metric.value(each) for each in sums.tolist()])

    def _left_out(self, i: int) -> Any:
        """The figure without each row in turn."""
        parts = self._parts(i)
        return self._figures(parts.sum(axis=0) - parts)

    def _bootstrapped(self, i: int) -> Any:
        """The figure of arm i over rows drawn again; the same rows for every arm."""
        import numpy as np

        if self._replicates is None:
            parts = np.concatenate([self._parts(k) for k in range(len(self.arms))], axis=1)
            chunks = [counts @ parts for counts in self._resampled()]
            sums = np.concatenate(chunks)
            width = sums.shape[1] // len(self.arms)
            whole = [sums[:, k * width : (k + 1) * width] for k in range(len(self.arms))]
            self._replicates = [self._figures(each) for each in whole]
        return self._replicates[i]

    def _resampled(self) -> Any:
        """How often each row is drawn, a line a replicate, as many lines at once as fit."""
        import numpy as np

        chance, n = np.random.default_rng(self._seed), self.rows
        for size in _chunks(n):
            drawn = chance.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
            yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)

    def _exchanged(self, i: int, j: int) -> float:
        """The p of the difference where on each row it is chance which arm gave which answer."""
        import numpy as np

        first, second = self._parts(i), self._parts(j)
        change = second - first
        observed = abs(self.value(j) - self.value(i))
        chance, as_far, total = np.random.default_rng(self._seed), 0, 0
        for size in _chunks(self.rows):
            moved = chance.integers(0, 2, size=(size, self.rows)).astype(float) @ change
            found = self._figures(second.sum(axis=0) - moved) - self._figures(first.sum(axis=0) + moved)
            as_far += int((np.abs(found) >= observed - 1e-12).sum())
            total += size
        return (as_far + 1) / (total + 1)


def _alike(drawn: Any) -> bool:
    """Whether replicates differ by no more than rounding."""
    return bool(drawn.max() - drawn.min() < 1e-9)


def _changed(pairs: Sequence[tuple[float, float]]) -> Interval:
    """Of a mean change on rows that all change alike: that of the changes as scores, -1 read as 0."""
    found = averaged([(1 + b - a) / 2 for a, b in pairs])
    return Interval(2 * found.low - 1, 2 * found.high - 1)


def _chunks(rows: int) -> list[int]:
    """The replicates in pieces that fit in memory."""
    left = max(_FEWEST, min(_REPLICATES, 10 * _AT_ONCE // rows))
    piece = max(1, _AT_ONCE // rows)
    return [min(piece, left - start) for start in range(0, left, piece)]


def _bca(drawn: Any, value: float, left_out: Any) -> Interval:
    """The bias-corrected and accelerated interval of bootstrap replicates (Efron 1987)."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    below = float(((drawn < value).sum() + (drawn == value).sum() / 2) / len(drawn))
    bias = float(ndtri(min(max(below, 1 / (len(drawn) + 1)), len(drawn) / (len(drawn) + 1))))
    away = left_out.mean() - left_out
    spread = float((away**2).sum()) ** 1.5
    skew = float((away**3).sum()) / (6 * spread) if spread > 0 else 0.0
    ends = [float(ndtr(bias + (bias + z) / (1 - skew * (bias + z)))) for z in (-_Z, _Z)]
    low, high = np.quantile(drawn, ends)
    return Interval(float(low), float(high))
