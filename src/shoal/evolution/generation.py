"""A generation: its units with their fitness, and the births that it began with."""

from collections.abc import Sequence

from msgspec import Struct

from shoal.evolution.unit import Scored


class Birth(Struct, frozen=True):
    """A tournament's outcome: an offspring of `parent`, made by `operator`, overwrote the loser in `slot`.

    Where a call of the mutation failed, `failure` says why, `child` is None and the loser stays. `better`: the child
    was fitter at its first evaluation than its parent when it won. `fell_back`: the operator had nothing to work with
    and did something simpler.
    """

    slot: int
    parent: str
    loser: str
    operator: str
    child: str | None = None
    better: bool = False
    fell_back: bool = False
    failure: str | None = None


class Generation(Struct, frozen=True):
    """A generation whose units all have a fitness, slot by slot."""

    number: int
    population: tuple[Scored, ...]
    births: tuple[Birth, ...] = ()

    @property
    def best(self) -> Scored:
        """The fittest unit; of several, the one in the lowest slot."""
        return max(self.population, key=lambda scored: scored.fitness)

    @property
    def mean(self) -> float:
        return sum(scored.fitness for scored in self.population) / len(self.population)


def best_of(history: Sequence[Generation]) -> Scored:
    """The fittest unit of a run; of several, the one found first."""
    return max((generation.best for generation in history), key=lambda scored: scored.fitness)
