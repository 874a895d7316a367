"""Generations logged to Weights & Biases."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from shoal.errors import UsageError
from shoal.evolution.generation import Generation
from shoal.evolution.statistics import GenerationStats


@contextmanager
def logged(
    listeners: list[Callable[[Generation, GenerationStats], None]], options: Mapping[str, Any]
) -> Iterator[None]:
    """In the body each generation is logged to a run of the project; a run that is continued logs to a new one."""
    try:
        import wandb
    except ImportError:
        raise UsageError("--use_wandb needs wandb; pip install 'shoal[wandb]'") from None
    shown = {name: value for name, value in options.items() if isinstance(value, str | int | float | bool)}
    run = wandb.init(project=options["wandb_project"], config=shown)

    def log(_: Generation, stats: GenerationStats) -> None:
        facts = structs.asdict(stats)
        run.log({name: value for name, value in facts.items() if isinstance(value, int | float)}, step=stats.number)

    listeners.append(log)
    try:
        yield
    finally:
        run.finish()
