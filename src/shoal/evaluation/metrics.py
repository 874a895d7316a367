"""What scores of single rows come to over many: a mean, or a figure that only the whole has, as F-beta."""

from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from shoal.prompting.answers import normalise


class Metric(Struct, frozen=True):
    """A figure over rows that is a function of sums over them, so that rows can be drawn again and again (bootstrap).

    `parts(score, answer, target)` are what one row adds to the sums; `value(sums)` is the figure.
    """

    name: str
    parts: Callable[[float, str | None, object], tuple[float, ...]]
    value: Callable[[Sequence[float]], float]

    def of(self, rows: Sequence[tuple[float, str | None, object]]) -> float:
        """The figure over rows, each as (score, answer, target). No rows: 0.0."""
        parts = [self.parts(*row) for row in rows]
        return self.value([sum(column) for column in zip(*parts, strict=True)]) if parts else 0.0


ACCURACY = Metric("accuracy", lambda score, _, __: (score, 1.0), lambda sums: sums[0] / sums[1] if sums[1] else 0.0)
MEAN = structs.replace(ACCURACY, name="mean score")  # of scores that are not only right or wrong


def f_beta(beta: float) -> Metric:
    """F-beta of yes-no answers: recall counts `beta` times as much as precision.

    An answer is positive where it says yes; one that says neither is negative. Without any positive, said or true: 0.0.
    """
    weight = beta * beta

    def parts(_: float, answer: str | None, target: object) -> tuple[float, ...]:
        said, true = affirms(answer), affirms(target)
        return float(said and true), float(said and not true), float(true and not said)

    def value(sums: Sequence[float]) -> float:
        hits, false_alarms, misses = sums
        whole = (1 + weight) * hits + weight * misses + false_alarms
        return (1 + weight) * hits / whole if whole else 0.0

    return Metric(f"F{beta:g}", parts, value)


def affirms(value: object) -> bool:
    """Whether an answer or a target says yes."""
    if isinstance(value, bool):
        return value
    return value is not None and normalise(str(value)) in ("yes", "true", "1")
