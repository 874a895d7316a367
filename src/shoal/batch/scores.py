"""What a user's own scoring function returns, as a score."""

from numbers import Real
from typing import Any


def as_score(value: Any) -> float:
    """True, false or a number from 0 to 1, of numpy or a tensor too, as a float; ValueError for anything else."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"returned {str(value)[:60]!r}; expected true, false or a number from 0 to 1")
    return float(value)
