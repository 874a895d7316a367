"""The mutation operators by name: from a parent to a unit that differs.

The paper draws one of them for each offspring; prompt crossover and context shuffling act on every offspring after it.
"""

from collections.abc import Awaitable, Callable, Mapping

from msgspec import structs

from shoal.evolution.mutators.contexts import shuffled
from shoal.evolution.mutators.crossover import crossed
from shoal.evolution.mutators.direct import first_order_direct, zero_order_direct
from shoal.evolution.mutators.distribution import estimation_of_distribution, lineage, rank_and_index
from shoal.evolution.mutators.hypermutation import first_order_hypermutation, zero_order_hypermutation
from shoal.evolution.mutators.lamarckian import lamarckian
from shoal.evolution.settings import Settings
from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Scored, Unit

# What comes back has the parent's id: the breeder names it.
Mutator = Callable[[Scored, Surroundings], Awaitable[Unit]]

MUTATORS: dict[str, Mutator] = {
    "zero_order_direct": zero_order_direct,
    "first_order_direct": first_order_direct,
    "estimation_of_distribution": estimation_of_distribution,
    "rank_and_index": rank_and_index,
    "lineage": lineage,
    "zero_order_hypermutation": zero_order_hypermutation,
    "first_order_hypermutation": first_order_hypermutation,
    "lamarckian": lamarckian,
}


def weights_of(settings: Settings) -> Mapping[str, float]:
    """How often each operator is drawn, in proportion."""
    return settings.operators or dict.fromkeys(MUTATORS, 1.0)


async def offspring(name: str, parent: Scored, around: Surroundings) -> Unit:
    """The parent's offspring by one operator: mutated, then by chance crossed; its contexts are shuffled."""
    unit = structs.replace(
        parent.unit,
        contexts=shuffled(parent, around.run.settings, around.random).contexts,
        operator=name,
        parent=parent.unit.id,
        fallback=None,
        crossed=None,
        unwritten=0,
    )
    genome = around.run.genome
    child = await MUTATORS[name](structs.replace(parent, unit=genome.seen(unit)), around)
    child = genome.unseen(await crossed(child, around), unit)
    return structs.replace(child, system_prompt=around.system_prompt or child.system_prompt)
