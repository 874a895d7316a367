"""Hyper-mutation: first a new mutation prompt, which stays in the unit, then each task prompt changed by it."""

from msgspec import structs

from shoal.evolution.mutators.direct import mutated
from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Scored, Unit


async def zero_order_hypermutation(parent: Scored, around: Surroundings) -> Unit:
    """A new mutation prompt from the problem and a thinking style, then each task prompt changed by it."""
    style = around.random.choice(around.run.thinking_styles)
    written = await around.write("zero_order_hypermutation", output="mutation_prompt", thinking_style=style)
    return await mutated(_with(written, parent.unit), around)


async def first_order_hypermutation(parent: Scored, around: Surroundings) -> Unit:
    """The mutation prompt summarised and improved, then each task prompt changed by it."""
    old = parent.unit.mutation_prompt
    written = await around.write("first_order_hypermutation", output="mutation_prompt", mutation_prompt=old)
    return await mutated(_with(written, parent.unit), around)


def _with(mutation_prompt: str, unit: Unit) -> Unit:
    if not mutation_prompt:
        return structs.replace(unit, unwritten=unit.unwritten + 1)
    return structs.replace(unit, mutation_prompt=mutation_prompt)
