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
    found, at = [], known.get(unit.id)
    while at is not None:
        found.append(at)
        at = parent_of(known, at)
    return found[::-1]


def parent_of(known: dict[str, Life], life: Life) -> Life | None:
    """A unit's parent; None for founders, and where a file names one that is no older."""
    found = known.get(life.unit.parent or "")
    return found if found is not None and found.born < life.born else None


class Descent:
    """The units of a run, who of them has descendants at the end, and a place for each in a drawing.

    `best` is the line of the run's fittest unit, the founder first. `kept` has the units of that line and of those of
    all units of the last population, with the generation until which each was needed. `rows` has a row for each unit,
    0 the uppermost: a child stands near its parent, and the lines that are kept never cross.
    """

    def __init__(self, generations: Sequence[Generation], best: Unit) -> None:
        self.known = lives(generations)
        self.best = line(self.known, best)
        self.kept: dict[str, int] = {}
        self.children: dict[str, list[Life]] = {}
        for way in (self.best, *(line(self.known, one.unit) for one in generations[-1].population)):
            for life, child in zip(way, [*way[1:], None], strict=True):
                until = life.last if child is None else child.born - 1
                self.kept[life.unit.id] = max(until, self.kept.get(life.unit.id, until))
                if child is not None and child not in self.children.setdefault(life.unit.id, []):
                    self.children[life.unit.id].append(child)
        self.rows: dict[str, int] = {}
        self._taken: set[tuple[int, int]] = set()  # row, generation
        self.height = self._place_kept()
        self._place_others(max(self.height, len(generations[-1].population)))

    def parent(self, life: Life) -> Life | None:
        return parent_of(self.known, life)

    def _place_kept(self) -> int:
        """The last child goes on in its parent's row, if the parent has gone by then; earlier ones come below."""
        row = -1
        founders = [life for life in self.known.values() if life.unit.id in self.kept and self.parent(life) is None]
        waiting = sorted(founders, key=lambda life: life.slot, reverse=True)
        goes_on: set[str] = set()
        while waiting:
            life = waiting.pop()
            row += life.unit.id not in goes_on
            self.rows[life.unit.id] = row
            until = self.kept[life.unit.id]
            self._taken.update((row, number) for number in range(life.born, until + 1))
            children = sorted(self.children.get(life.unit.id, ()), key=lambda child: (child.born, child.slot))
            if children and children[-1].born > until:
                goes_on.add(children[-1].unit.id)
            waiting += children
        return row + 1

    def _place_others(self, height: int) -> None:
        """Those without kin at the end stand in free rows, as near to their parents as there are any."""
        for life in self.known.values():
            if life.unit.id in self.kept:
                continue
            above = self.parent(life)
            near = self.rows[above.unit.id] if above is not None and above.unit.id in self.rows else life.slot
            stands = range(life.born, life.last + 1)
            row = next(
                (row for row in _outwards(near, height) if not any((row, number) in self._taken for number in stands)),
                near,
            )
            self.rows[life.unit.id] = row
            self._taken.update((row, number) for number in stands)
            self.height = max(self.height, row + 1)


def _outwards(middle: int, height: int) -> list[int]:
    """All rows, the nearest to the middle first."""
    return sorted(range(height), key=lambda row: (abs(row - middle), row))
