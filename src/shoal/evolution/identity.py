"""What makes a run this run: changing any of it makes another."""

from typing import Any

import msgspec
from msgspec import structs

from shoal.evolution.folder import digest
from shoal.evolution.surroundings import Breeding
from shoal.evolution.task import Task
from shoal.runtime.model import Model
from shoal.techniques.opening import identities, names


def options_of(run: Breeding, model: Model) -> dict[str, Any]:
    """All options that a run's results depend on, by name, as plain data."""
    settings = structs.asdict(run.settings)
    return {
        "optimizer": "promptbreeder",
        "model": identities(model),
        "technique": names(model)[1],
        "generations": settings.pop("generations"),
        "settings": settings,
        "task": _task(run.task),
        "queries": {name: prompt.text for name, prompt in run.queries.prompts.items()},
        "mutation_prompts": list(run.mutation_prompts),
        "thinking_styles": list(run.thinking_styles),
        "embed": getattr(run.embed, "name", None) or getattr(run.embed, "__qualname__", type(run.embed).__qualname__),
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "description": task.description,
        "seed_prompt": task.seed,
        "system_prompt": task.system_prompt,
        "question": task.question.text,
        "target": task.target,
        "scorer": task.scorer.name,
        "metric": task.scorer.metric.name,
        "decoders": msgspec.to_builtins(task.decoders),
        "rows": {"count": len(task.rows), "digest": digest(task.rows)},
        "held_out": {"count": len(task.held_out), "digest": digest(task.held_out)},
    }
