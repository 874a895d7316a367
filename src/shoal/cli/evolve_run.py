"""A run of `shoal evolve` with all that follow it: the view, Weights & Biases, signals, and what is said in the end."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

import click
import msgspec
from msgspec import Struct, field

from shoal.cli.stopping import stop_on_signals
from shoal.errors import BudgetExceeded, ShoalError
from shoal.evolution import Evolution, Result
from shoal.evolution.day_care import DayCare
from shoal.evolution.generation import Generation
from shoal.evolution.ready import Ready, write_ready
from shoal.evolution.statistics import GenerationStats
from shoal.evolution.tracking import Tracker, wandb
from shoal.techniques.opening import bases


class _Followers(Struct):
    """Who is told of each generation, while the context is open."""

    context: ExitStack
    each: list[Callable[[Generation, GenerationStats], None]] = field(default_factory=list)
    tracker: Tracker | None = None

    def generation(self, generation: Generation, stats: GenerationStats) -> None:
        for told in self.each:
            told(generation, stats)

    def show(self, evolution: Evolution, options: dict[str, Any]) -> None:
        from shoal.cli.evolving import EvolveProgress

        progress = EvolveProgress(evolution, verbose=bool(options["verbose"]))
        self.each.append(progress.generation)
        self.context.enter_context(progress)

    def track(self, evolution: Evolution, options: dict[str, Any]) -> None:
        """Log to Weights & Biases, once the folder is this process's own."""
        wandb()  # a missing library is told of before anything begins

        def begin(folder: Path) -> None:
            run = evolution.run
            tracker = Tracker(folder, options["wandb_project"], run.task.name, run.settings)
            self.tracker = self.context.enter_context(tracker)
            self.each.append(tracker.generation)

        evolution.options["on_open"] = begin


async def execute(evolution: Evolution, day_care: DayCare, options: dict[str, Any]) -> int:
    """The run; its exit code."""
    scorer = evolution.run.task.scorer
    await scorer.need()
    task = asyncio.ensure_future(evolution.execute())
    stop_on_signals(evolution, evolution.models, task)
    try:
        with ExitStack() as context:
            followers = _followers(evolution, options, context)
            result = await task
            if followers.tracker is not None and result.comparison is not None:
                followers.tracker.comparison(result.comparison)
    except (asyncio.CancelledError, BudgetExceeded):
        if not evolution.interrupted:
            _say_what_is_kept(evolution)
            raise
        return _interrupted(evolution)
    except ShoalError:
        _say_what_is_kept(evolution)
        raise
    finally:
        await scorer.aclose()
        for base in bases(evolution.models):
            await base.aclose()
    assert result.run_dir is not None
    ready = write_ready(result.run_dir, result.best, evolution.run.task, day_care.queries)
    files = report(result.run_dir)
    return _said(evolution, result, ready, files, options)


def _followers(evolution: Evolution, options: dict[str, Any], context: ExitStack) -> _Followers:
    followers = _Followers(context)
    evolution.options["on_generation"] = followers.generation
    if options["use_wandb"]:
        followers.track(evolution, options)
    if not options["quiet"] and not options["as_json"]:
        followers.show(evolution, options)
    return followers


def report(folder: Path) -> list[Path]:
    """Write the report of a run that has ended; where that fails, the run is not less worth, and it is said why."""
    from shoal.evolution.report import write

    try:
        return write(folder)
    except ShoalError as error:
        click.echo(f"note: no report: {error}; shoal evolve --report {quote(str(folder))} makes it later", err=True)
        return []


def _interrupted(evolution: Evolution) -> int:
    folder = quote(str(evolution.options["run_dir"]))
    click.echo(f"interrupted; --run-dir {folder} goes on from there", err=True)
    return 130


def _say_what_is_kept(evolution: Evolution) -> None:
    if evolution.progress.usage.calls:
        folder = quote(str(evolution.options["run_dir"]))
        click.echo(f"note: finished calls are kept; --run-dir {folder} goes on from there", err=True)


def _said(evolution: Evolution, result: Result, ready: Ready, files: list[Path], options: dict[str, Any]) -> int:
    from shoal.cli.evolved import print_result, print_use, result_facts

    task = evolution.run.task
    if options["as_json"]:
        click.echo(msgspec.json.encode(result_facts(result, ready, files)))
    elif not options["quiet"]:
        print_result(result, task.seed, files)
        print_use(ready, task, options["model"])
    if result.ended == "interrupted":
        return _interrupted(evolution)
    if result.ended == "budget":
        folder = quote(str(result.run_dir))
        click.echo(f"stopped: the budget is spent; --run-dir {folder} with a larger one goes on", err=True)
        return 1
    return 0
