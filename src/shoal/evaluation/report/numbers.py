"""Figures of a comparison in the order and the form in which people read them."""

from collections.abc import Callable

from msgspec import structs

from shoal.evaluation.comparing.result import Arm, Comparison, Difference, Interval


def ranked(comparison: Comparison) -> list[Arm]:
    """The arms from best to worst; of equals the cheaper first."""
    return sorted(comparison.arms, key=lambda arm: (-arm.value, tokens_per_row(arm)))


def differences(comparison: Comparison) -> list[Difference]:
    """The paired differences, each with the better arm as its `b`, in the arms' order."""
    ranks = {arm.name: rank for rank, arm in enumerate(ranked(comparison))}
    found = [_turned(one) if ranks[one.a] < ranks[one.b] else one for one in comparison.differences]
    return sorted(found, key=lambda one: (ranks[one.b], ranks[one.a]))


def _turned(one: Difference) -> Difference:
    interval = Interval(-one.interval.high, -one.interval.low)
    return structs.replace(one, a=one.b, b=one.a, value=-one.value, interval=interval, wins=one.losses, losses=one.wins)


def several(comparison: Comparison) -> bool:
    """Whether p was adjusted for several comparisons."""
    return any(one.adjusted not in (None, one.p) for one in comparison.differences)


def is_share(comparison: Comparison) -> bool:
    """Whether the metric is a share of the rows, to be read in per cent."""
    return comparison.metric == "accuracy"


def tokens_per_row(arm: Arm) -> float:
    return arm.tokens / arm.costed if arm.costed else 0.0


def value(comparison: Comparison, number: float) -> str:
    return f"{100 * number:.1f}\N{NO-BREAK SPACE}%" if is_share(comparison) else f"{number:.3f}"


def interval(comparison: Comparison, span: Interval) -> str:
    """Both ends; the unit once."""
    if is_share(comparison):
        return f"{100 * span.low:.1f} to {100 * span.high:.1f}\N{NO-BREAK SPACE}%"
    return f"{span.low:.3f} to {span.high:.3f}"


def difference(comparison: Comparison, number: float) -> str:
    """With its sign; differences of shares are in points."""
    text = f"{100 * number:+.1f}" if is_share(comparison) else f"{number:+.3f}"
    return text.replace("-", "−") if text.strip("+-0.") else text.strip("+-")


def points(comparison: Comparison, number: float) -> str:
    """The size of a difference in words."""
    return f"{100 * abs(number):.1f} points" if is_share(comparison) else f"{abs(number):.3f}"


def tick(comparison: Comparison) -> Callable[[float], str]:
    """How the metric's axis writes its ticks."""
    return (lambda number: f"{100 * number:.4g} %") if is_share(comparison) else (lambda number: f"{number:.4g}")


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def dollars(much: float) -> str:
    return f"${much:,.2f}" if much >= 1 or much == 0 else f"${much:.3f}" if much >= 0.01 else f"${much:.2g}"


def times(ratio: float) -> str:
    """A ratio, as in "12 times the tokens"."""
    return f"{ratio:,.0f} times" if ratio >= 9.5 else f"{ratio:.1f} times" if ratio >= 0.1 else f"{ratio:.2g} times"
