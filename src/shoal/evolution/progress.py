"""Where a run stands: for a live view, cheap to read at any time."""

from time import monotonic

from msgspec import Struct, field

from shoal.evolution.generation import Generation
from shoal.evolution.statistics import GenerationStats, OperatorStats, add
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.types import Usage


class Progress(Struct):
    """Where a run stands.

    `generation` is the earliest that is not complete, of `generations`; `scored` units of its `population` have a
    fitness, the fittest of them `best`, on average `mean`; these are of the generation before while none has. `ever` is
    the best of the whole run, of the unit `fittest`; `bests` and `means` are those of complete generations. `diversity`
    is the last complete generation's. `operators` sums all generations, those of an earlier process too; `questions`
    answered, `usage` and `steps` (questions and mutations under way) are this process's.
    """

    generations: int
    population: int
    generation: int = 0
    scored: int = 0
    best: float = 0.0
    mean: float = 0.0
    ever: float = 0.0
    fittest: Unit | None = None
    bests: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    diversity: float | None = None
    operators: dict[str, OperatorStats] = field(default_factory=dict)
    questions: int = 0
    steps: int = 0
    usage: Usage = Usage()
    started: float = 0.0
    resumed: int = 0  # generations that an earlier process completed
    rollouts: int | None = None  # where they decide the end, how many there may be
    phase: str = "breeding"  # or "comparing": with the seed prompt, on held-out questions
    fitness: dict[int, list[float]] = field(default_factory=dict)  # so far, of generations that are not complete

    @property
    def seconds(self) -> float:
        return monotonic() - self.started

    @property
    def left(self) -> float | None:
        """Seconds that the generations left will take, judging by those of this process; None while it cannot tell."""
        if self.rollouts is not None:
            return self.seconds / self.questions * max(0, self.rollouts - self.questions) if self.questions else None
        whole = self.generation - self.resumed + self.scored / self.population
        ahead = self.generations + 1 - self.generation - self.scored / self.population
        return self.seconds / whole * ahead if whole > 0 else None

    def score(self, number: int, scored: Scored) -> None:
        """A unit has a fitness."""
        self.fitness.setdefault(number, []).append(scored.fitness)
        self._remember(scored)
        if number == self.generation:
            self._show(self.fitness[number])

    def complete(self, generation: Generation, stats: GenerationStats) -> None:
        """A generation is complete, and the next one counts."""
        self._remember(generation.best)
        self.bests.append(generation.best.fitness)
        self.means.append(generation.mean)
        self.diversity = stats.diversity
        add(stats.operators, self.operators)
        self.fitness.pop(generation.number, None)
        self.generation = generation.number + 1
        self._show(self.fitness.get(self.generation) or [scored.fitness for scored in generation.population])
        self.scored = len(self.fitness.get(self.generation, ()))

    def _remember(self, scored: Scored) -> None:
        if self.fittest is None or scored.fitness > self.ever:
            self.ever, self.fittest = scored.fitness, scored.unit

    def _show(self, fitness: list[float]) -> None:
        self.scored = len(fitness)
        self.best = max(fitness)
        self.mean = sum(fitness) / len(fitness)
