"""Chance that does not depend on the order in which things finish."""

from random import Random


def chance(seed: int, *what: object) -> Random:
    """Random numbers for one purpose, named by `what`: always the same for it, independent of those for any other."""
    return Random(f"{seed}:{':'.join(map(str, what))}")
