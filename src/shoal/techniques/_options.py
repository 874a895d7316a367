"""Options that make no sense are refused before anything is asked."""

from shoal.errors import UsageError


def at_least(least: float, **options: float) -> None:
    """UsageError for an option below `least`: `at_least(1, n=n)`."""
    for name, value in options.items():
        if not value >= least:
            raise UsageError(f"{name}={value}: must be at least {least}")
