"""Lamarckian mutation: what was learnt in life is passed on, an instruction guessed from workings that were right."""

from msgspec import structs

from shoal.evolution.mutators.direct import instead, rewritten
from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Scored, Unit, Working
from shoal.runtime.concurrency import gather

_ROOM = 8000  # characters of workings, where their number is not given


async def lamarckian(parent: Scored, around: Surroundings) -> Unit:
    """Each task prompt is the instruction that the parent's right workings seem to follow.

    First-order where the parent has none yet.
    """
    if not parent.workings:
        return await instead(parent, around)
    seen = [_seen(parent, around) for _ in parent.unit.task_prompts]
    replies = await gather(
        *(
            around.write(
                "lamarckian",
                i,
                workings=[structs.asdict(working) for working in workings],
                mutation_prompt=parent.unit.mutation_prompt,
                task_prompt=parent.unit.task_prompts[i],
            )
            for i, workings in enumerate(seen)
        )
    )
    return rewritten(parent.unit, replies)


def _seen(parent: Scored, around: Surroundings) -> list[Working]:
    """Workings in random order, whole: as many as are asked for, else at least one and all that fit."""
    workings = around.random.sample(parent.workings, len(parent.workings))
    number = around.run.settings.num_lamarckian_reasonings
    if number is not None:
        return workings[:number]
    taken, room = workings[:1], _ROOM - _length(workings[0])
    for working in workings[1:]:
        if _length(working) <= room:
            taken.append(working)
            room -= _length(working)
    return taken


def _length(working: Working) -> int:
    return len(working.question) + len(working.text)
