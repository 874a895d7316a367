"""Who descends from whom, over a whole run."""

from collections.abc import Sequence

from msgspec import Struct

from shoal.evolution.generation import Generation
from shoal.evolution.unit import Unit


class Life(Struct):
    """A unit from the generation in which it came to the last in which it stood. `fitness` is of each of these."""

    unit: Unit
    slot: int
    born: int
    fitness: list[float]

    @property
    def last(self) -> int:
        return self.born + len(self.fitness) - 1

    @property
    def mean(self) -> float:
        """Its fitness, on average."""
        return sum(self.fitness) / len(self.fitness)


def lives(generations: Sequence[Generation]) -> dict[str, Life]:
    """Every unit of a run, by its id."""
    found: dict[str, Life] = {}
    for generation in generations:
        for slot, scored in enumerate(generation.population):
            life = found.get(scored.unit.id)
            if life is None:
                found[scored.unit.id] = Life(scored.unit, slot, generation.number, [scored.fitness])
            else:
                life.fitness.append(scored.fitness)
    return found


def line(known: dict[str, Life], unit: Unit) -> list[Life]:
    """A unit's ancestors, the founder first, the unit itself last."""
    found, seen, at = [], set[str](), known.get(unit.id)
    while at is not None and at.unit.id not in seen:
        seen.add(at.unit.id)
        found.append(at)
        at = known.get(at.unit.parent or "")
    return found[::-1]


def side_by_side(known: dict[str, Life], population: Sequence[Unit]) -> list[int]:
    """The slots in an order that puts kin of the population beside kin."""
    paths = {
        slot: [(life.born, life.slot) for life in line(known, unit)] for slot, unit in enumerate(population)
    }
    return sorted(paths, key=lambda slot: paths[slot])
