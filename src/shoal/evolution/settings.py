"""How prompts are bred; the defaults are the paper's."""

from collections.abc import Mapping

from msgspec import Struct

from shoal.errors import UsageError


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of a run.

    population_size    units
    generations        rounds of pairing; all pairs of a generation compete at once
    prompts_per_unit   task prompts of a unit, applied one after another
    batch              questions drawn anew for each evaluation; None: all of them, once in a unit's life
    operators          weights of the mutation operators by name; None: all alike
    crossover          chance that a task prompt of an offspring is another unit's
    few_shot           most workings that a unit shows before a question; 0: none
    temperature        what founders' temperatures are drawn from; offspring's differ by up to `temperature_step`
    likeness           texts whose embeddings have a larger cosine are the same to the estimation of distribution
    variants           ways to ask, as the fitness query knows them; the best counts
    speculate          mutate before it is known who wins, from the state one generation earlier: faster, dearer
    seed               of all chance: the same seed is the same run, whatever finishes first
    """

    population_size: int = 50
    generations: int = 20
    prompts_per_unit: int = 2
    batch: int | None = 100
    operators: Mapping[str, float] | None = None
    crossover: float = 0.1
    few_shot: int = 0
    temperature: tuple[float, float] = (1.0, 2.0)
    temperature_step: float = 0.2
    likeness: float = 0.95
    variants: tuple[str, ...] = ("",)
    speculate: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        for name, least in (("population_size", 2), ("generations", 0), ("prompts_per_unit", 1), ("few_shot", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least {least}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch={self.batch}: an evaluation needs a question")
        for name, weight in (self.operators or {}).items():
            if not 0 <= weight < float("inf"):
                raise UsageError(f"operator {name}: its weight {weight} must be a number of at least 0")
        if self.operators is not None and not sum(self.operators.values()) > 0:
            raise UsageError("operators: one needs a weight above 0")
