"""Direct mutation: a new task prompt from the problem alone (zero-order), or from the old one (first-order)."""

from msgspec import structs

from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.concurrency import gather


async def zero_order_direct(parent: Scored, around: Surroundings) -> Unit:
    """Each task prompt is the first of a hundred hints for the problem."""
    unit = parent.unit
    written = await gather(*(around.write("zero_order_direct", i) for i in range(len(unit.task_prompts))))
    return structs.replace(unit, task_prompts=tuple(written))


async def first_order_direct(parent: Scored, around: Surroundings) -> Unit:
    """The unit's mutation prompt changes each task prompt."""
    return await mutated(parent.unit, around)


async def mutated(unit: Unit, around: Surroundings) -> Unit:
    """Each task prompt of the unit, changed by its mutation prompt."""
    written = await gather(
        *(
            around.write("first_order_direct", i, mutation_prompt=unit.mutation_prompt, task_prompt=task_prompt)
            for i, task_prompt in enumerate(unit.task_prompts)
        )
    )
    return structs.replace(unit, task_prompts=tuple(written))
