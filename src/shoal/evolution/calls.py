"""How many calls a run takes, counted before it: each query is written out once on a model that answers at once."""

from collections.abc import Awaitable
from typing import Any

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.surroundings import Breeding
from shoal.runtime import registry
from shoal.runtime.types import Request


class Planned(Struct, frozen=True):
    """Calls of a run by what they are for: mutations at least and at most. Draws that are asked twice count twice."""

    founders: int
    fitness: int
    mutations: tuple[int, int]
    held_out: int

    @property
    def least(self) -> int:
        return self.founders + self.fitness + self.mutations[0] + self.held_out

    @property
    def most(self) -> int:
        return self.founders + self.fitness + self.mutations[1] + self.held_out


async def planned(run: Breeding) -> Planned:
    """What a run that goes to its last generation asks for."""
    settings, task = run.settings, run.task
    size, steps = settings.population_size, settings.prompts_per_unit
    asked = {variant: await _asked(run, variant, steps) for variant in settings.variants}
    by_seed = {variant: await _asked(run, variant, 1) for variant in settings.variants}
    evaluations = size + settings.generations * (size // 2 if settings.batch is None else size)
    rows = min(settings.batch or len(task.rows), len(task.rows))
    weights = settings.operators or dict.fromkeys(MUTATORS, 1.0)
    each = [await _mutation(run, name) for name, weight in weights.items() if weight > 0]
    mutations = settings.generations * (size // 2 * 2 if settings.speculate else size // 2)
    return Planned(
        size * run.genome.count * await _written(run, "initial"),
        evaluations * rows * sum(asked.values()),
        (mutations * min(each), mutations * max(each)),
        len(task.held_out) * max(asked[variant] + by_seed[variant] for variant in settings.variants),
    )


async def _asked(run: Breeding, variant: str, steps: int) -> int:
    """Calls for one question."""
    row = run.task.rows[0]
    return await _calls(
        run.queries.write(
            "fitness",
            question=run.task.question.fill(row),
            row=row,
            task_prompts=["x"] * steps,
            system_prompt="x",
            contexts=[],
            variant=variant,
            inducer=run.task.decoders.inducer,
            evaluator=run.task.decoders.evaluator,
        )
    )


async def _mutation(run: Breeding, name: str) -> int:
    if name.endswith("hypermutation"):
        return await _written(run, name) + run.genome.count * await _written(run, "first_order_direct")
    return run.genome.count * await _written(run, name)


async def _written(run: Breeding, query: str) -> int:
    """Calls for one prompt."""
    given: dict[str, Any] = dict.fromkeys(("mutation_prompt", "thinking_style", "task_prompt", "part", "prefix"), "x")
    return await _calls(
        run.queries.write(
            query,
            description=run.task.description,
            redescriber=run.task.decoders.redescriber,
            task_prompts=["x", "x"],
            workings=[{"question": "x", "text": "x"}],
            **given,
        )
    )


async def _calls(writing: Awaitable[object]) -> int:
    backend = ScriptedBackend(_first)
    with registry.using(BaseModel(backend)):
        await writing
    return len(backend.requests)


def _first(request: Request) -> str:
    return request.params.choices[0] if request.params.choices else "x"
