"""What a comparison shows and what it does not, in one line of plain words."""

from shoal.evaluation.comparing.result import Comparison, Difference
from shoal.traces import words

LEVEL = 0.05
FAILED = "Every row failed, so that nothing was measured."


def significance(comparison: Comparison) -> str:
    """Which arms differ from the first by more than chance explains, at 5 % for all of them together."""
    if not any(arm.answered for arm in comparison.arms):
        return FAILED
    if len(comparison.arms) < 2:
        return "Nothing was compared with it."
    first = comparison.arms[0].name
    against = [each for each in comparison.differences if each.a == first]
    sure = [each for each in against if _p(each) < LEVEL]
    better = [each for each in sure if each.value > 0]
    worse = [each for each in sure if each.value < 0]
    other = [each for each in against if each not in better and each not in worse]
    said = []
    if better:
        said.append(f"Better than {_short(first)}: {_listed(better)}.")
    if worse:
        said.append(f"Worse than {_short(first)}: {_listed(worse)}.")
    if other:
        said.append(
            f"Not shown to differ from {_short(first)} on {words.plural(comparison.rows, 'row')}: {_listed(other)}."
        )
    if len(against) > 1:
        said.append(f"(p adjusted for {len(against)} comparisons, Holm)")
    return " ".join(said)


def _p(difference: Difference) -> float:
    return difference.p if difference.adjusted is None else difference.adjusted


def _listed(differences: list[Difference]) -> str:
    return ", ".join(f"{_short(each.b)} ({100 * each.value:+.1f} points, p {_shown(_p(each))})" for each in differences)


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _short(name: str) -> str:
    return words.short(name, 60)
