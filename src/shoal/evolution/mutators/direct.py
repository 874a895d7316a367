"""Direct mutation: a new task prompt from the problem alone (zero-order), or from the old one (first-order)."""

from collections.abc import Sequence

from msgspec import structs

from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.concurrency import gather


async def zero_order_direct(parent: Scored, around: Surroundings) -> Unit:
    """Each task prompt is the first of a list of hints for the problem, whatever it was before."""
    unit = parent.unit
    styles = [around.random.choice(around.run.thinking_styles) for _ in unit.task_prompts]
    return rewritten(
        unit,
        await gather(
            *(
                around.write(
                    "zero_order_direct", i, listed=1, mutation_prompt=unit.mutation_prompt, thinking_style=style
                )
                for i, style in enumerate(styles)
            )
        ),
    )


async def first_order_direct(parent: Scored, around: Surroundings) -> Unit:
    """The unit's mutation prompt changes each task prompt."""
    return await mutated(parent.unit, around)


async def mutated(unit: Unit, around: Surroundings) -> Unit:
    """Each task prompt of the unit, changed by its mutation prompt."""
    return rewritten(
        unit,
        await gather(
            *(
                around.write("first_order_direct", i, mutation_prompt=unit.mutation_prompt, task_prompt=task_prompt)
                for i, task_prompt in enumerate(unit.task_prompts)
            )
        ),
    )


async def instead(parent: Scored, around: Surroundings) -> Unit:
    """First-order mutation, for an operator that has nothing to work with."""
    return structs.replace(await first_order_direct(parent, around), fallback="first_order_direct")


def rewritten(unit: Unit, replies: Sequence[str]) -> Unit:
    """The unit with a reply for each task prompt; where a reply is empty, the old one stays."""
    prompts = tuple(new or old for new, old in zip(replies, unit.task_prompts, strict=True))
    return structs.replace(unit, task_prompts=prompts, unwritten=unit.unwritten + list(replies).count(""))
