"""Options that make no sense are refused before anything is asked."""

from collections.abc import Sequence

from shoal.errors import UsageError


def at_least(least: float, **options: float) -> None:
    """UsageError for an option below `least`: `at_least(1, n=n)`."""
    for name, value in options.items():
        if not value >= least:
            raise UsageError(f"{name}={value}: must be at least {least}")


def not_empty(**options: Sequence[object] | None) -> None:
    """UsageError for a list option that is there and empty."""
    for name, value in options.items():
        if value is not None and not value:
            raise UsageError(f"{name} is empty; name at least one model, or leave it out")
