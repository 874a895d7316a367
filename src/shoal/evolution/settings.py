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
    context_resampling chance, divided by `few_shot`, that all of them are drawn anew after an evaluation
    temperature        what founders' temperatures are drawn from; offspring's differ by up to `temperature_step`,
                       within 0 and 2
    likeness           texts whose embeddings have a larger cosine are the same to the estimation of distribution
    num_eda_samples    most prompts that the estimation of distribution and the lineage list; None: all
    num_lamarckian_reasonings  workings that the Lamarckian operator sees; None: all that fit into 8,000 characters
    fitness_sharing    in tournaments, fitness is divided by how many units are alike; pairs then wait for each other
    prefix_diversity   50 random characters before all that the Redescriber is asked
    variants           ways to ask, as the fitness query knows them; the best counts
    seed_founder       one founder has the seed prompt as its first task prompt, which the paper's founders have not
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
    context_resampling: float = 0.1
    temperature: tuple[float, float] = (1.0, 2.0)
    temperature_step: float = 0.2
    likeness: float = 0.95
    num_eda_samples: int | None = None
    num_lamarckian_reasonings: int | None = None
    fitness_sharing: bool = False
    prefix_diversity: bool = False
    variants: tuple[str, ...] = ("",)
    seed_founder: bool = False
    speculate: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        for name, least in (("population_size", 2), ("generations", 0), ("prompts_per_unit", 1), ("few_shot", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least {least}")
        self._check_mutation()
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch={self.batch}: an evaluation needs a question")
        for name, weight in (self.operators or {}).items():
            if not 0 <= weight < float("inf"):
                raise UsageError(f"operator {name}: its weight {weight} must be a number of at least 0")
        if self.operators is not None and not sum(self.operators.values()) > 0:
            raise UsageError("operators: one needs a weight above 0")

    def questions(self, rows: int) -> int:
        """How many questions one evaluation puts where there are so many rows, in all variants together."""
        return min(self.batch or rows, rows) * len(self.variants)

    def _check_mutation(self) -> None:
        for name in ("num_eda_samples", "num_lamarckian_reasonings"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise UsageError(f"{name}={given}: it must be at least 1")
        for name in ("crossover", "context_resampling"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)}: a chance is between 0 and 1")
        if not 0 <= self.temperature[0] <= self.temperature[1] or self.temperature_step < 0:
            raise UsageError(f"temperature={self.temperature}: two numbers from 0 on, the smaller first, are needed")
