"""Figures of a comparison in the order and the form in which people read them."""

from collections.abc import Callable

from msgspec import Struct

from shoal.evaluation.comparing.result import Arm, Comparison, Difference, Interval

CHANCE = 0.05  # a p-value below it tells a difference from chance


class Against(Struct, frozen=True):
    """The arm `one`, which ranks higher, against the `other`: a difference is `one`'s metric less the `other`'s.

    `adjusted` is p where the pair is one of several comparisons with the first arm, None elsewhere.
    """

    one: str
    other: str
    value: float
    interval: Interval
    p: float
    wins: int
    losses: int
    ties: int
    adjusted: float | None

    @property
    def judged(self) -> float:
        """The p that says whether the difference may be chance."""
        return self.p if self.adjusted is None else self.adjusted

    @property
    def sure(self) -> bool:
        return self.judged < CHANCE


def ranked(comparison: Comparison) -> list[Arm]:
    """The arms from best to worst; of equals the cheaper first."""
    return sorted(comparison.arms, key=lambda arm: (-arm.value, tokens_per_row(arm)))


def differences(comparison: Comparison) -> list[Against]:
    """The paired differences, each from the better arm's side, in the arms' order."""
    ranks = {arm.name: rank for rank, arm in enumerate(ranked(comparison))}
    found = [_turned(one) if ranks[one.a] < ranks[one.b] else _kept(one) for one in comparison.differences]
    return sorted(found, key=lambda one: (ranks[one.one], ranks[one.other]))


def _kept(it: Difference) -> Against:
    return Against(it.b, it.a, it.value, it.interval, it.p, it.wins, it.losses, it.ties, it.adjusted)


def _turned(it: Difference) -> Against:
    turned = Interval(-it.interval.high, -it.interval.low)
    return Against(it.a, it.b, -it.value, turned, it.p, it.losses, it.wins, it.ties, it.adjusted)


def several(comparison: Comparison) -> bool:
    """Whether p was adjusted for several comparisons."""
    return any(one.adjusted not in (None, one.p) for one in comparison.differences)


def is_share(comparison: Comparison) -> bool:
    """Whether the metric is a share of the rows, to be read in per cent."""
    return comparison.metric == "accuracy"


def tokens_per_row(arm: Arm) -> float:
    return (arm.prompt_tokens + arm.completion_tokens) / arm.costed if arm.costed else 0.0


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
