"""A generation in numbers."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from shoal.errors import ShoalError
from shoal.evolution.embedding import diversity
from shoal.evolution.generation import Birth, Generation
from shoal.evolution.surroundings import Embed
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.types import Usage


class OperatorStats(Struct):
    """What an operator did: mutations `tried`; children `better` than their parent; mutations that fell back to a
    simpler operator, and those that a call `failed` on."""

    tried: int = 0
    better: int = 0
    fell_back: int = 0
    failed: int = 0


class GenerationStats(Struct, frozen=True):
    """A generation in numbers. All but `seconds` are the same for the same seed.

    Fitness is from 0.0 to 1.0; `variants` has the mean of each way to ask. `diversity` is 1 less the mean cosine of two
    units' task prompts (0.0: all alike), None where they cannot be embedded. `questions` were put, `failed` of them got
    no answer. `calls` are draws that no earlier generation needed; `cached_calls` of them came for nothing, from the
    cache, and tokens are those of the others.
    """

    number: int
    mean: float
    best: float
    best_unit: Unit
    variants: dict[str, float]
    diversity: float | None
    operators: dict[str, OperatorStats]
    questions: int
    failed: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cached_calls: int = 0


def stats_of(
    generation: Generation, usage: Usage, *, variety: float | None, batch: int, seconds: float
) -> GenerationStats:
    """`batch` is how many questions each evaluation puts."""
    population = generation.population
    asked = [scored for scored in population if scored.evaluated == generation.number]
    return GenerationStats(
        generation.number,
        generation.mean,
        generation.best.fitness,
        generation.best.unit,
        _means(population),
        variety,
        by_operator(generation.births),
        batch * len(asked),
        sum(scored.failed for scored in asked),
        usage.calls + usage.cached_calls,
        usage.prompt_tokens,
        usage.completion_tokens,
        seconds,
        usage.cached_calls,
    )


def by_operator(births: Sequence[Birth]) -> dict[str, OperatorStats]:
    """What each operator did, in the order of their names."""
    found: dict[str, OperatorStats] = {}
    for birth in sorted(births, key=lambda birth: birth.operator):
        stats = found.setdefault(birth.operator, OperatorStats())
        stats.tried += 1
        stats.better += birth.better
        stats.fell_back += birth.fell_back
        stats.failed += birth.child is None
    return found


def of_all(stats: Iterable[GenerationStats]) -> dict[str, OperatorStats]:
    """What each operator did in several generations, in the order of their names.

    By their statistics: of GEPA's reflections those count too whose text did not join the pool.
    """
    found: dict[str, OperatorStats] = {}
    for generation in stats:
        add(generation.operators, found)
    return dict(sorted(found.items()))


def add(operators: Mapping[str, OperatorStats], into: dict[str, OperatorStats]) -> None:
    """Add what operators did in a generation."""
    for name, one in operators.items():
        stats = into.setdefault(name, OperatorStats())
        stats.tried += one.tried
        stats.better += one.better
        stats.fell_back += one.fell_back
        stats.failed += one.failed


def _means(population: Sequence[Scored]) -> dict[str, float]:
    names = dict.fromkeys(name for scored in population for name in scored.variants)
    found = {name: [scored.variants[name] for scored in population if name in scored.variants] for name in names}
    return {name: sum(fitness) / len(fitness) for name, fitness in found.items()}


async def variety(units: Sequence[Unit], embed: Embed) -> float | None:
    """The diversity of the units' task prompts; None where they cannot be embedded."""
    try:
        return await diversity(["\n".join(unit.task_prompts) for unit in units], embed)
    except ShoalError:
        return None
