"""`shoal evolve`: prompts bred for a task of a Day Care folder."""

from pathlib import Path
from typing import Any

import click

from shoal.backends.loop import run as run_program
from shoal.cli.evolve_opening import continued, day_care_of, evolution_of, task_of
from shoal.cli.evolve_options import Lenient, evolve_options, notes, with_those_of
from shoal.cli.evolve_run import execute
from shoal.errors import UsageError, did_you_mean
from shoal.evolution import Evolution, GepaEvolution, Task
from shoal.evolution.calls import counted
from shoal.evolution.day_care import DayCare, nothing_to_win

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
    if options["report"]:
        return _report(options["report"])
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
        from shoal.cli.evolve_plan import plan_evolution

        return plan_evolution(evolution, options)
    if options["pilot"]:
        raise UsageError("--pilot is for --plan")
    if evolution.limit.calls is not None and not isinstance(evolution, GepaEvolution):
        _compare_with_plan(evolution, evolution.limit.calls)
    return run_program(execute(evolution, day_care, options))


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


def _report(folder: Path) -> int:
    from shoal.evolution.report import write

    for path in write(folder):
        click.echo(path)
    return 0


def _say_what_is_odd(day_care: DayCare, task: Task, options: dict[str, Any]) -> None:
    for note in (*day_care.notes, *notes(options)):
        click.echo(f"note: {note}", err=True)
    if odd := nothing_to_win(task.rows, task.target):
        click.echo(f"warning: {odd}", err=True)


def _compare_with_plan(evolution: Evolution, calls: int) -> None:
    expected = run_program(counted(evolution.run)).expected
    if expected > calls:
        click.echo(f"note: about {expected:,.0f} calls are expected; the budget of {calls:,} may end the run", err=True)
