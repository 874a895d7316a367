"""Metrics are functions of sums over rows."""

import pytest

from shoal.evaluation.metrics import ACCURACY, f_beta


def test_accuracy_is_the_mean() -> None:
    assert ACCURACY.of([(1.0, "a", "a"), (0.0, "b", "a"), (0.5, None, "a")]) == 0.5
    assert ACCURACY.of([]) == 0.0


@pytest.mark.parametrize(
    # of 150 rows that are all positive, so many are said to be; as scikit-learn's fbeta_score has it
    ("said", "beta", "value"),
    [(150, 0.5, 1.0), (100, 0.5, 0.909091), (50, 0.5, 0.714286), (0, 0.5, 0.0), (100, 1.0, 0.8), (50, 2.0, 0.384615)],
)
def test_f_beta_weighs_recall(said: int, beta: float, value: float) -> None:
    rows = [(0.0, " Yes" if i < said else "no", True) for i in range(150)]
    assert f_beta(beta).of(rows) == pytest.approx(value, abs=1e-6)


def test_f_beta_counts_false_alarms() -> None:
    rows: list[tuple[float, str | None, object]] = [(1.0, "yes", "yes"), (0.0, "Yes.", False), (1.0, None, "no")]
    assert f_beta(1.0).of(rows) == pytest.approx(2 / 3)
