"""What a comparison shows and what it does not, in one line of plain words."""

from shoal.evaluation.comparing.result import Comparison, Difference
from shoal.traces import words

FAILED = "Every row failed, so that nothing was measured."


def significance(comparison: Comparison) -> str:
    """Which arms differ from the first by more than chance explains, at 5 % for all of them together."""
    if not any(arm.answered for arm in comparison.arms):
        return FAILED
    if len(comparison.arms) < 2:
        return "Nothing was compared with it."
    first = comparison.arms[0].name
    against = [each for each in comparison.differences if each.a == first]
    told = {
        f"Better than {_short(first)}": [each for each in against if each.sure and each.value > 0],
        f"Worse than {_short(first)}": [each for each in against if each.sure and each.value < 0],
        f"Not shown to differ from {_short(first)} on {words.plural(comparison.rows, 'row')}": [
            each for each in against if not (each.sure and each.value)
        ],
    }
    said = [f"{what}: {_listed(found)}." for what, found in told.items() if found]
    if len(against) > 1:
        said.append(f"(p adjusted for {len(against)} comparisons, Holm)")
    return " ".join(said)


def _listed(differences: list[Difference]) -> str:
    return ", ".join(
        f"{_short(each.b)} ({100 * each.value:+.1f} points, {_shown(each.judged)})" for each in differences
    )


def _shown(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _short(name: str) -> str:
    return words.short(name, 60)
