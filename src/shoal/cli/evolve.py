"""`shoal evolve`: prompts bred for a task of a Day Care folder."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec import Struct

from shoal.backends.loop import run as run_program
from shoal.cli.evolve_opening import continued, day_care_of, evolution_of, task_of
from shoal.cli.evolve_options import Lenient, evolve_options, notes, with_those_of
from shoal.cli.stopping import stop_on_signals
from shoal.errors import BudgetExceeded, UsageError, did_you_mean
from shoal.evolution import Evolution, GepaEvolution, Result, Task
from shoal.evolution.calls import counted
from shoal.evolution.day_care import DayCare, nothing_to_win
from shoal.evolution.generation import Generation
from shoal.evolution.ready import Ready, write_ready
from shoal.evolution.statistics import GenerationStats
from shoal.techniques.opening import bases

if TYPE_CHECKING:
    from shoal.evolution.tracking import Tracker

OPTIMIZERS = ("promptbreeder", "gepa")


@click.command(cls=Lenient)
@click.argument("folder", required=False)
@evolve_options
def evolve(folder: str | None, **options: Any) -> int:
    """Breed prompts for a TASK of the Day Care folder FOLDER, with PromptBreeder (arXiv:2309.16797) or GEPA.

    Every finished call is kept in FOLDER/TASK/RUN_n: --continue_run_number n goes on where a run stopped. Options may
    be written with underscores, as Day Care had them, or with dashes.
    """
    if options["convert"]:
        return _convert(*map(Path, options["convert"]))
    if folder and options["day_care_dir"] and Path(folder) != Path(options["day_care_dir"]):
        raise UsageError(f"FOLDER is {folder}, --day_care_dir {options['day_care_dir']}: which is it?")
    given = {**options, "day_care_dir": folder or options["day_care_dir"]}
    options = with_those_of(continued(given), given)
    if options["optimizer"] not in OPTIMIZERS:
        raise UsageError(f"--optimizer: no {options['optimizer']!r}; {did_you_mean(options['optimizer'], OPTIMIZERS)}")
    return _evolve(options)


def _evolve(options: dict[str, Any]) -> int:
    day_care = day_care_of(options)
    task = task_of(day_care, options)
    _say_what_is_odd(day_care, task, options)
    evolution = evolution_of(day_care, task, options)
    if options["plan"]:
        return _plan(evolution)
    if evolution.limit.calls is not None and not isinstance(evolution, GepaEvolution):
        _compare_with_plan(evolution, evolution.limit.calls)
    return run_program(_execute(evolution, day_care, options))


def _convert(old: Path, new: Path) -> int:
    """Say what became of each query; 1 where one could not be converted."""
    from shoal.evolution.lmql.folder import convert

    outcomes = convert(old, new)
    for outcome in outcomes:
        if outcome.refused is None:
            click.echo(f"{outcome.query}: converted to {', '.join(outcome.became)}")
        else:
            click.echo(f"{outcome.query}: not converted: {outcome.refused}")
        for note in outcome.notes:
            click.echo(f"  {note}")
    click.echo(f"written to {new}; queries that are missing there are the paper's")
    return 1 if any(outcome.refused and not outcome.harmless for outcome in outcomes) else 0


def _say_what_is_odd(day_care: DayCare, task: Task, options: dict[str, Any]) -> None:
    for note in (*day_care.notes, *notes(options)):
        click.echo(f"note: {note}", err=True)
    if odd := nothing_to_win(task.rows, task.target):
        click.echo(f"warning: {odd}", err=True)


# The run


class _Listeners(Struct):
    """Who is told of each generation."""

    each: list[Callable[[Generation, GenerationStats], None]]

    def __call__(self, generation: Generation, stats: GenerationStats) -> None:
        for listener in self.each:
            listener(generation, stats)


async def _execute(evolution: Evolution, day_care: DayCare, options: dict[str, Any]) -> int:
    scorer, listeners = evolution.run.task.scorer, _Listeners([])
    evolution.options["on_generation"] = listeners
    quiet = options["quiet"] or options["as_json"]
    await scorer.need()
    task = asyncio.ensure_future(evolution.execute())
    stop_on_signals(evolution, evolution.models, task)
    try:
        shown = nullcontext() if quiet else _progress(evolution, listeners, options)
        with shown, _logged(evolution, listeners, options) as tracker:
            result = await task
            if tracker is not None and result.comparison is not None:
                tracker.comparison(result.comparison)
    except asyncio.CancelledError:
        if not evolution.interrupted:
            raise
        return _interrupted(evolution)
    except BudgetExceeded:
        if not evolution.interrupted:
            raise
        return _interrupted(evolution)
    finally:
        await scorer.aclose()
        for base in bases(evolution.models):
            await base.aclose()
    assert result.run_dir is not None
    ready = write_ready(result.run_dir, result.best, evolution.run.task, day_care.queries)
    return _report(evolution, result, ready, options)


def _progress(evolution: Evolution, listeners: _Listeners, options: dict[str, Any]) -> AbstractContextManager[object]:
    from shoal.cli.evolve_show import EvolutionProgress

    progress = EvolutionProgress(evolution, verbose=bool(options["verbose"]))
    listeners.each.append(progress.generation)
    return progress


def _logged(
    evolution: Evolution, listeners: _Listeners, options: dict[str, Any]
) -> "AbstractContextManager[Tracker | None]":
    if not options["use_wandb"]:
        return nullcontext()
    from shoal.evolution.tracking import Tracker

    folder, run = Path(str(evolution.options["run_dir"])), evolution.run
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    tracker = Tracker(folder, options["wandb_project"], run.task.name, run.settings)
    listeners.each.append(tracker.generation)
    return tracker


def _interrupted(evolution: Evolution) -> int:
    click.echo(f"interrupted; --run-dir {quote(str(evolution.options['run_dir']))} goes on from there", err=True)
    return 130


def _report(evolution: Evolution, result: Result, ready: Ready, options: dict[str, Any]) -> int:
    from shoal.cli.evolve_show import print_result, result_facts

    if options["as_json"]:
        click.echo(msgspec.json.encode(result_facts(result, ready)))
    elif not options["quiet"]:
        print_result(result, ready, evolution.run.task, options["model"])
    if result.ended == "interrupted":
        return _interrupted(evolution)
    if result.ended == "budget":
        click.echo(
            f"stopped: the budget is spent; --run-dir {quote(str(result.run_dir))} with a larger one goes on", err=True
        )
        return 1
    return 0


def _compare_with_plan(evolution: Evolution, calls: int) -> None:
    expected = run_program(counted(evolution.run)).expected
    if expected > calls:
        click.echo(f"note: about {expected:,.0f} calls are expected; the budget of {calls:,} may end the run", err=True)


def _plan(evolution: Evolution) -> int:
    if isinstance(evolution, GepaEvolution):
        click.echo(f"questions      at most {evolution.pool.most:,}")
        click.echo(f"reflections    at most {evolution.reflections:,}")
        click.echo(f"held-out rows  {2 * len(evolution.run.task.held_out):,} questions")
        return 0
    plan = run_program(counted(evolution.run))
    parts = {
        "founders": f"{plan.founders:,}",
        "fitness": f"{plan.fitness:,}",
        "mutations": f"{plan.mutations:,.0f}, at most {plan.most_mutations:,}",
        "held-out rows": f"{plan.held_out:,}",
        "in all": f"{plan.expected:,.0f} calls, at most {plan.most:,}",
    }
    for name, figure in parts.items():
        click.echo(f"{name:14} {figure}")
    return 0
