"""Intervals have the coverage they state, and tests the values that are published for them."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from shoal.evaluation.comparing import statistics
from shoal.evaluation.comparing.result import Interval
from shoal.evaluation.comparing.statistics import Figures, Rated, averaged, holm, mcnemar, paired_shares, wilson
from shoal.evaluation.metrics import ACCURACY, MEAN, Metric, f_beta


def test_wilson_is_scipys() -> None:
    for right, rows in ((0, 1), (0, 20), (7, 20), (50, 50), (483, 500)):
        theirs = binomtest(right, rows).proportion_ci(0.95, "wilson")
        ours = wilson(right / rows, rows)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson(0.0, 0) == Interval(0.0, 1.0)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for wins, losses in ((0, 0), (1, 0), (5, 0), (12, 3), (3, 12), (40, 40)):
        theirs = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert mcnemar(wins, losses) == pytest.approx(theirs)
    assert mcnemar(5, 15) == pytest.approx(0.041389, abs=1e-6)


def test_holm_adjusts_in_order_and_keeps_it() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("rows", [20, 50, 100, 500])
def test_wilson_covers_what_it_says(rows: int) -> None:
    """Exactly, by the binomial distribution: 95 % over shares, and never far below for one of them."""
    right = np.arange(rows + 1)
    bounds = [wilson(x / rows, rows) for x in right]
    low, high = np.array([b.low for b in bounds]), np.array([b.high for b in bounds])
    shares = np.linspace(0.02, 0.98, 97)
    covered = [binom.pmf(right, rows, p)[(low <= p) & (p <= high)].sum() for p in shares]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.89


PAIRS = [(0.5, 0.5, 0.3), (0.5, 0.7, 0.5), (0.9, 0.95, 0.5), (0.97, 0.98, 0.5), (0.1, 0.2, 0.5), (0.6, 0.6, 0.8)]


@pytest.mark.parametrize("rows", [20, 50, 100, 500])
def test_the_difference_of_two_shares_is_covered(rows: int) -> None:
    """Two arms right with p and q, correlated: at least 95 % of intervals hold q - p, to the simulation's error."""
    chance = np.random.default_rng(7)
    for p, q, rho in PAIRS:
        both = min(p * q + rho * (p * (1 - p) * q * (1 - q)) ** 0.5, p, q)
        drawn = chance.multinomial(rows, [q - both, p - both, 1 - p - q + 2 * both], size=20_000)
        known: dict[tuple[int, int], bool] = {}
        covered = 0
        for wins, losses in drawn[:, :2].tolist():
            if (wins, losses) not in known:
                interval = paired_shares(wins, losses, rows)
                known[wins, losses] = interval.low <= q - p <= interval.high
            covered += known[wins, losses]
        assert covered / 20_000 > 0.944, (p, q, rho)


def test_the_mcnemar_test_is_wrong_no_more_often_than_it_says() -> None:
    chance = np.random.default_rng(3)
    drawn = chance.multinomial(60, [0.15, 0.15, 0.7], size=4000)
    assert np.mean([mcnemar(wins, losses) <= 0.05 for wins, losses, _ in drawn.tolist()]) <= 0.05


def rated(metric: Metric, rows: list[tuple[float, str | None, object]]) -> Rated:
    return Rated([row[0] for row in rows], [metric.parts(*row) for row in rows])


def judged(n: int, sensitivity: float, specificity: float, chance: np.random.Generator) -> Rated:
    """Answers to yes-no questions of a rater that is right so often."""
    true = chance.random(n) < 0.4
    said = np.where(true, chance.random(n) < sensitivity, chance.random(n) >= specificity)
    words = {True: "yes", False: "no"}
    rows = [(float(s == t), words[bool(s)], words[bool(t)]) for s, t in zip(said, true, strict=True)]
    return rated(f_beta(1), rows)


@pytest.mark.parametrize("rows", [50, 200])
def test_the_bootstrapped_interval_of_f1_is_covered(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_REPLICATES", 1000)
    chance = np.random.default_rng(11)
    hits, alarms, misses = 0.4 * 0.8, 0.6 * 0.1, 0.4 * 0.2
    true = 2 * hits / (2 * hits + alarms + misses)
    intervals = [Figures(f_beta(1), [judged(rows, 0.8, 0.9, chance)], seed).interval(0) for seed in range(300)]
    covered = np.mean([i.low <= true <= i.high for i in intervals])
    assert 0.92 <= covered <= 0.98  # 95 % of 300, two and a half standard errors either way


def test_the_bootstrapped_difference_is_covered_and_its_test_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graded scores of two arms, on rows that are hard or easy for both."""
    monkeypatch.setattr(statistics, "_REPLICATES", 1000)
    chance = np.random.default_rng(5)
    covered = found = 0
    for seed in range(300):
        ease = chance.random(60)
        arms = [np.clip(ease + chance.normal(0, 0.1, 60), 0, 1) for _ in range(2)]
        rows = [rated(ACCURACY, [(float(x), None, None) for x in arm]) for arm in arms]
        test = Figures(ACCURACY, rows, seed).test(0, 1)
        covered += test.interval.low <= 0 <= test.interval.high
        found += test.p <= 0.05
    assert 0.92 <= covered / 300 <= 0.98
    assert found / 300 <= 0.08


def test_averages_over_draws_are_covered() -> None:
    """A row is right with a probability of its own; its score is the mean of 8 draws, the interval is of their mean."""
    chance = np.random.default_rng(2)
    for a, b in ((2.0, 2.0), (0.5, 0.5), (9.0, 0.5)):
        scores = chance.binomial(8, chance.beta(a, b, size=(2000, 60))) / 8
        intervals = [averaged(line) for line in scores.tolist()]
        covered = np.mean([i.low <= a / (a + b) <= i.high for i in intervals])
        assert 0.94 <= covered <= 0.98, (a, b, covered)
    assert averaged([1.0] * 20) == wilson(1.0, 20)


def test_a_figure_without_spread_is_not_taken_for_certain() -> None:
    metric = f_beta(1)
    perfect = rated(metric, [(1.0, "yes", "yes")] * 9 + [(1.0, "no", "no")] * 30)
    figures = Figures(metric, [perfect, perfect])
    assert figures.value(0) == 1.0
    assert figures.interval(0) == wilson(1.0, 9)
    test = figures.test(0, 1)
    assert test.p == 1.0
    assert test.interval.low < 0 < test.interval.high


def test_shares_are_told_from_graded_scores_and_ties_are_counted() -> None:
    first = rated(ACCURACY, [(1.0, None, None), (0.0, None, None), (0.0, None, None), (1.0, None, None)])
    second = rated(ACCURACY, [(1.0, None, None), (1.0, None, None), (1.0, None, None), (0.0, None, None)])
    test = Figures(ACCURACY, [first, second]).test(0, 1)
    assert (test.value, test.wins, test.losses, test.ties) == (0.25, 2, 1, 1)
    assert test.p == mcnemar(2, 1)
    assert test.interval == paired_shares(2, 1, 4)
    graded = rated(ACCURACY, [(0.5, None, None)] * 4)
    assert not Figures(ACCURACY, [first, graded]).shares


def test_the_same_seed_gives_the_same_interval() -> None:
    arm = judged(80, 0.7, 0.8, np.random.default_rng(0))
    assert Figures(f_beta(1), [arm], 4).interval(0) == Figures(f_beta(1), [arm], 4).interval(0)
    assert Figures(f_beta(1), [arm], 4).interval(0) != Figures(f_beta(1), [arm], 5).interval(0)


def marked(scores: list[float]) -> Rated:
    return Rated(scores, [(score, 1.0) for score in scores])


def test_right_or_wrong_is_a_share_whatever_the_scorer_calls_its_mean() -> None:
    """A function of the user's that says yes or no: Wilson and McNemar, as for accuracy."""
    first, second = marked([1.0] * 6 + [0.0] * 14), marked([1.0] * 15 + [0.0] * 5)
    mean, accuracy = Figures(MEAN, [first, second]), Figures(ACCURACY, [first, second])
    assert mean.interval(0) == accuracy.interval(0) == wilson(0.3, 20)
    assert mean.test(0, 1) == accuracy.test(0, 1)
    assert mean.test(0, 1).p == pytest.approx(mcnemar(9, 0))


@pytest.mark.parametrize("score", [0.7, 0.1, 1 / 3])
def test_marks_that_are_all_the_same_are_not_taken_for_certain(score: float) -> None:
    """A judge that gives every row the same mark: sums of such marks differ in their last digits only."""
    better = score + 0.1
    figures = Figures(MEAN, [marked([score] * 20), marked([score] * 20), marked([better] * 20)])
    assert figures.interval(0) == averaged([score] * 20)
    assert figures.interval(0).high - figures.interval(0).low > 0.05
    same, apart = figures.test(0, 1), figures.test(0, 2)
    assert same.interval.low < -0.02 < 0.02 < same.interval.high
    assert apart.interval.low < 0.08 < apart.value < 0.12 < apart.interval.high < 0.5
