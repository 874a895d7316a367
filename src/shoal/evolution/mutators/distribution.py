"""Estimation of distribution: a list of prompts is gone on with, of the population or of the best so far.

Each task prompt of a unit is written from a list of its own: of those that are applied as the same step.
"""

from collections.abc import Sequence

from shoal.evolution.embedding import cosines
from shoal.evolution.mutators.direct import instead, rewritten
from shoal.evolution.replies import one_line
from shoal.evolution.surroundings import Embed, Surroundings
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.concurrency import gather


async def estimation_of_distribution(parent: Scored, around: Surroundings) -> Unit:
    """The next of a list of the population's prompts, in random order and without those that are much alike.

    First-order where fewer than two units are known.
    """
    population = await around.snapshot.population()
    if len(population) < 2:
        return await instead(parent, around)
    steps = range(len(parent.unit.task_prompts))
    lists = [[prompt for _, prompt in await _listed(population, step, around)] for step in steps]
    return await _continued("estimation_of_distribution", lists, parent.unit, around)


async def rank_and_index(parent: Scored, around: Surroundings) -> Unit:
    """The next of such a list in ascending order of fitness, which the model is told is descending.

    First-order where fewer than two units are known.
    """
    population = await around.snapshot.population()
    if len(population) < 2:
        return await instead(parent, around)
    lists = []
    for step in range(len(parent.unit.task_prompts)):
        listed = await _listed(population, step, around)
        lists.append([prompt for _, prompt in sorted(listed, key=lambda entry: entry[0])])
    return await _continued("rank_and_index", lists, parent.unit, around)


async def lineage(parent: Scored, around: Surroundings) -> Unit:
    """The next of a list of the best of each generation, oldest first; a unit that stays the best is in it once.

    First-order before the first generation has its best.
    """
    elites = list({unit.id: unit for unit in await around.snapshot.elites()}.values())
    if not elites:
        return await instead(parent, around)
    if around.run.settings.num_eda_samples is not None:
        elites = elites[-around.run.settings.num_eda_samples :]
    lists = [[unit.task_prompts[step] for unit in elites] for step in range(len(parent.unit.task_prompts))]
    return await _continued("lineage", lists, parent.unit, around)


async def distinct(texts: Sequence[str], embed: Embed, likeness: float) -> list[int]:
    """The places of those texts that are no more alike than `likeness`, a cosine, to any before that stays."""
    alike = cosines(await embed(texts))
    kept: list[int] = []
    for place in range(len(texts)):
        if all(alike(place, other) <= likeness for other in kept):
            kept.append(place)
    return kept


async def _listed(population: Sequence[Scored], step: int, around: Surroundings) -> list[tuple[float, str]]:
    """The distinct prompts of one step in random order, each with its unit's fitness."""
    entries = [(scored.fitness, scored.unit.task_prompts[step]) for scored in population]
    around.random.shuffle(entries)
    settings = around.run.settings
    kept = await distinct([prompt for _, prompt in entries], around.run.embed, settings.likeness)
    return [entries[place] for place in kept][: settings.num_eda_samples]


async def _continued(query: str, lists: Sequence[Sequence[str]], unit: Unit, around: Surroundings) -> Unit:
    return rewritten(
        unit,
        await gather(
            *(
                around.write(
                    query,
                    step,
                    listed=len(prompts) + 1,
                    mutation_prompt=unit.mutation_prompt,
                    task_prompts=[one_line(prompt) for prompt in prompts],
                )
                for step, prompts in enumerate(lists)
            )
        ),
    )
