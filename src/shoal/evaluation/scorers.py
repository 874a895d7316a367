"""Scorers: how right an answer is, from 0.0 to 1.0."""

from collections.abc import Callable
from typing import Any

from shoal.prompting.answers import equivalent, extract

# (whole output, short answer or None, what was expected) -> score
Scorer = Callable[[str, str | None, Any], float]


def _scorer(kind: str) -> Scorer:
    def score(output: str, answer: str | None, target: Any) -> float:
        found = answer if answer is not None else extract(output, kind)
        expected = extract(str(target), kind) or str(target)
        return float(found is not None and equivalent(found, expected, kind))

    return score


SCORERS: dict[str, Scorer] = {"exact": _scorer("auto"), "number": _scorer("number"), "choice": _scorer("choice")}
