"""Figures of a comparison as people read them."""

from collections.abc import Callable

from shoal.evaluation.comparing.result import Arm, Comparison, Interval
from shoal.evaluation.report.plotting import amount as amount


def is_share(comparison: Comparison) -> bool:
    """Whether the metric is a share of the rows, to be read in per cent."""
    return comparison.metric == "accuracy"


def tokens_per_row(arm: Arm) -> float:
    return (arm.prompt_tokens + arm.completion_tokens) / arm.rows if arm.rows else 0.0


def value(comparison: Comparison, number: float) -> str:
    return f"{100 * number:.1f} %" if is_share(comparison) else f"{number:.3f}"


def interval(comparison: Comparison, span: Interval) -> str:
    """Both ends; the unit once."""
    if is_share(comparison):
        return f"{100 * span.low:.1f} to {100 * span.high:.1f} %"
    return f"{span.low:.3f} to {span.high:.3f}"


def difference(comparison: Comparison, number: float) -> str:
    """With its sign; differences of shares are in points."""
    return (f"{100 * number:+.1f}" if is_share(comparison) else f"{number:+.3f}").replace("-", "−")


def points(comparison: Comparison, number: float) -> str:
    """The size of a difference in words."""
    if is_share(comparison):
        return f"{abs(100 * number):.1f} points"
    return f"{abs(number):.3f}"


def whole(comparison: Comparison) -> Callable[[float], str]:
    """How the metric's axis writes its ticks."""
    return (lambda number: f"{100 * number:.4g} %") if is_share(comparison) else (lambda number: f"{number:.4g}")


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def dollars(amount_: float | None) -> str:
    if amount_ is None:
        return "unknown"
    return (
        f"${amount_:,.2f}"
        if amount_ >= 1 or amount_ == 0
        else f"${amount_:.2g}"
        if amount_ < 0.01
        else f"${amount_:.3f}"
    )


def times(ratio: float) -> str:
    """A ratio, as in "12 times the tokens"."""
    return f"{ratio:.0f} times" if ratio >= 9.5 else f"{ratio:.1f} times"
