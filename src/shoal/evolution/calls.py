"""The calls of a run with queries of one's own, counted before it: each is written out once on a scripted model."""

from collections.abc import Awaitable
from typing import Any

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.evolution.mutators import weights_of
from shoal.evolution.planning import Calls, births, evaluations
from shoal.evolution.surroundings import Breeding
from shoal.runtime import registry
from shoal.runtime.types import Request


async def counted(run: Breeding) -> Calls:
    """What a run that goes to its last generation asks for, by the queries as they are.

    Draws that are asked twice count twice: a run of greedy answers may ask fewer.
    """
    settings, task = run.settings, run.task
    asked = {variant: await _asked(run, variant, settings.prompts_per_unit) for variant in settings.variants}
    by_seed = {variant: await _asked(run, variant, 1) for variant in settings.variants}
    rows = min(settings.batch or len(task.rows), len(task.rows))
    weights = weights_of(settings)
    each = {name: await _mutation(run, name) for name, weight in weights.items() if weight}
    mean = sum(weights[name] * calls for name, calls in each.items()) / sum(weights.values())
    mutations = settings.generations * births(settings)
    return Calls(
        settings.population_size * run.genome.count * await _written(run, "initial"),
        evaluations(settings) * rows * sum(asked.values()),
        mutations * mean,
        mutations * max(each.values()),
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
