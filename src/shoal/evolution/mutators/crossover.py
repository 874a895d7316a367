"""Prompt crossover: after a mutation, sometimes, a task prompt of another unit takes the place of one."""

from msgspec import structs

from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Unit


async def crossed(child: Unit, around: Surroundings) -> Unit:
    """The child, by the chance of the settings with one of its task prompts another unit's; never its mutation prompt.

    The other is chosen in proportion to its fitness, all alike where none has any. With no other known, the child stays
    as it is.
    """
    random = around.random
    if random.random() >= around.run.settings.crossover:
        return child
    others = [scored for scored in await around.snapshot.population() if scored.unit.id != child.parent]
    if not others:
        return child
    weights = [scored.fitness for scored in others]
    donor = random.choices(others, weights if sum(weights) > 0 else None)[0].unit
    prompts = list(child.task_prompts)
    prompts[random.randrange(len(prompts))] = random.choice(donor.task_prompts)
    return structs.replace(child, task_prompts=tuple(prompts), crossed=donor.id)
