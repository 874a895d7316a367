"""Binary tournaments: who meets whom, and who wins."""

from shoal.evolution.chance import chance
from shoal.evolution.unit import Scored


def pairing(seed: int, number: int, size: int) -> dict[int, int]:
    """Slots paired at random, each with its partner; of an odd number one has none and goes on as it is."""
    slots = list(range(size))
    chance(seed, "pairing", number).shuffle(slots)
    pairs = list(zip(slots[::2], slots[1::2], strict=False))
    return dict(pairs) | {b: a for a, b in pairs}


def beats(mine: tuple[Scored, int], rival: tuple[Scored, int]) -> bool:
    """Whether the first wins: it is fitter, or as fit and in the lower slot."""
    return (mine[0].fitness, -mine[1]) > (rival[0].fitness, -rival[1])
