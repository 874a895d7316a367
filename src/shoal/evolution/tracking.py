"""Generations logged to Weights & Biases, under one run there for each run folder."""

from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any

import msgspec
from msgspec import Struct, structs

from shoal.batch.directory import atomic_writer
from shoal.errors import CorruptStore, UsageError
from shoal.evolution.generation import Generation
from shoal.evolution.held_out import Comparison
from shoal.evolution.report.reading import complete
from shoal.evolution.settings import Settings
from shoal.evolution.statistics import GenerationStats
from shoal.traces import words

_FILE = "wandb.json"
_QUIET: dict[str, Any] = {  # the library sends much else unless it is told not to
    "console": "off",
    "silent": True,
    "host": "shoal",  # in place of the machine's name
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


def wandb() -> Any:
    """The library; UsageError where it is missing."""
    try:
        import wandb as library
    except ImportError:
        raise UsageError("--use_wandb needs wandb: pip install 'shoal[wandb]'") from None
    return library


class _Known(Struct, frozen=True):
    """What is remembered of the run there; `logged` is its last generation."""

    id: str
    project: str
    logged: int = -1


class Tracker:
    """Logs a run's generations. Use as a context manager around it, and give `generation` to its `on_generation`.

    The run's id there is kept in the folder as wandb.json, so that a run that is continued goes on there as well;
    generations of the folder that are not there yet are logged first. Figures, the settings and the best unit's prompts
    are sent; no rows, answers, workings, keys or command line, nor what the library would send by itself: code,
    packages, the machine's name and load, the terminal. Raises UsageError where wandb is missing or does not begin.
    """

    def __init__(self, folder: Path, project: str, name: str, settings: Settings) -> None:
        library = wandb()
        self.folder = folder
        self.known = self._before(project) or _Known(token_hex(8), project)
        self._remember()
        try:
            self.run = library.init(
                project=project,
                id=self.known.id,
                name=f"{name} {folder.name}",
                dir=folder,
                config=msgspec.to_builtins(settings),
                resume="allow",
                settings=library.Settings(**_QUIET),
            )
        except library.Error as error:
            raise UsageError(f"--use_wandb: {words.short(error, 300)}") from None
        self._catch_up()

    def _before(self, project: str) -> _Known | None:
        path = self.folder / _FILE
        if not path.exists():
            return None
        try:
            known = msgspec.json.decode(path.read_bytes(), type=_Known)
        except msgspec.DecodeError as error:
            raise CorruptStore(f"{path}: damaged ({error}); remove it to log to a new run") from None
        return known if known.project == project else None

    def _catch_up(self) -> None:
        """Log the generations that the folder has and nobody has told of, as of a process that was killed then."""
        for one in complete(self.folder):
            if one.generation.number > self.known.logged:
                self.generation(one.generation, one.stats)

    def _remember(self) -> None:
        with atomic_writer(self.folder / _FILE) as out:
            out.write(msgspec.json.encode(self.known) + b"\n")

    def generation(self, generation: Generation, stats: GenerationStats) -> None:
        """Log a complete generation."""
        self.run.log(figures(stats), step=stats.number)
        self.known = structs.replace(self.known, logged=stats.number)
        self._remember()

    def comparison(self, found: Comparison) -> None:
        """Note the figures on held-out rows in the run's summary."""
        self.run.summary.update({f"held_out/{name}": value for name, value in structs.asdict(found).items()})

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._catch_up()
        finally:
            self.run.finish(exit_code=0 if kind is None else 1)


def figures(stats: GenerationStats) -> dict[str, Any]:
    """What is logged of a generation. The best unit's contexts are not in it: they are rows of the data."""
    unit = stats.best_unit
    found: dict[str, Any] = {
        "generation": stats.number,
        "mean_fitness": stats.mean,
        "max_fitness": stats.best,
        "best_unit": unit.id,
        "best_task_prompts": "\n\n".join(unit.task_prompts),
        "best_mutation_prompt": unit.mutation_prompt,
        "best_operator": unit.operator,
        "questions": stats.questions,
        "failed_questions": stats.failed,
        "calls": stats.calls,
        "cached_calls": stats.cached_calls,
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "seconds": stats.seconds,
    }
    if stats.diversity is not None:
        found["diversity"] = stats.diversity
    found |= {f"mean_{name or 'default'}_fitness": mean for name, mean in stats.variants.items()}
    for name, one in stats.operators.items():
        found |= {f"operators/{name}/{what}": number for what, number in structs.asdict(one).items()}
    return found
