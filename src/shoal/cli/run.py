"""`shoal run`: a prompt over every row of a data file."""

import asyncio
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import structs

from shoal.backends.loop import run as run_program
from shoal.batch.directory import RunDirectory
from shoal.batch.rows import Input
from shoal.batch.runner import BatchRun, RowProgram, window_for
from shoal.cli.asking import (
    identity_of,
    judge_of,
    program_of,
    rows_of,
    run_name,
    sample_as_told,
    score_options,
)
from shoal.cli.options import model_options, open_from, pilot_options, row_options, sampling_options, scoped
from shoal.cli.templates import check_options
from shoal.errors import BudgetExceeded, StoreError, UsageError
from shoal.runtime import registry
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.techniques.opening import bases

_DRAIN_SECONDS = 30.0


@click.command()
@click.argument("data", required=False)
@row_options
@model_options
@sampling_options
@click.option("-o", "--output", metavar="OUT.jsonl", help="Also write the output here; - for standard output.")
@score_options
@click.option("--plan", is_flag=True, help="Say what the run will cost, and run nothing.")
@pilot_options
@click.option("--budget", metavar="calls=,tokens=,seconds=", help="Stop when this much is spent.")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/ and a name.")
@click.option("--trace", "traced", is_flag=True, help="Keep each row's call tree, for `shoal trace`.")
@click.option("--quiet", is_flag=True, help="No progress and no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(data: str | None, **options: Any) -> int:
    """Run a prompt over every row of DATA (JSONL, JSON, CSV, TSV, Parquet, or - for JSON Lines on standard input).

    With --template, every template over every row of --args instead: template by template.

    Every finished call is kept in the run directory: the same command continues a run that was stopped or killed.
    """
    budget = Budget.parse(options["budget"]) if options["budget"] else None
    if options["plan"]:
        from shoal.cli.plan import plan_run

        return plan_run(data, options)
    if options["pilot"]:
        raise UsageError("--pilot is for --plan")
    check_options(data, options)
    directory = options["run_dir"] or Path("runs", run_name(data, options))
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        return _run(rows_of(data, Path(scratch), options), directory, budget, options)


def _run(rows: Input, directory: Path, budget: Budget | None, options: dict[str, Any]) -> int:
    model = open_from(options, options["max_in_flight"], options["queries_per_batch"])
    program = program_of(rows, model, options)
    judge = judge_of(rows, options)
    identity = identity_of(options, model, program)
    name = "@".join(part for part in (options["program"], options["technique"]) if part) or None
    with RunDirectory(directory, identity, rows) as place, registry.using(model), scoped(options):
        sample_as_told(options)
        window = window_for(bases(model))
        batch = BatchRun(place, rows, model=options["model"], technique=name, window=window, judge=judge)
        batch.traced = options["traced"]
        return run_program(_execute(batch, model, program, budget, options))


async def _execute(
    batch: BatchRun, model: Model, program: RowProgram, budget: Budget | None, options: dict[str, Any]
) -> int:
    quiet = options["quiet"] or options["as_json"]
    task = asyncio.ensure_future(batch.execute(program, budget))
    _stop_on_signals(batch, model, task)
    try:
        with nullcontext() if quiet else _progress(batch, model):
            await task
    except asyncio.CancelledError:
        if not batch.interrupted:
            raise
    except StoreError as error:
        raise StoreError(f"{error}; nothing finished is lost: mend that, and the same command resumes") from error
    finally:
        for base in bases(model):
            await base.aclose()
    return _report(batch, options, quiet=quiet)


def _progress(batch: BatchRun, model: Model) -> Any:
    from shoal.cli.show import RunProgress

    return RunProgress(batch, model)


def _stop_on_signals(batch: BatchRun, model: Model, task: "asyncio.Future[None]") -> None:
    """The first Ctrl-C (or SIGTERM) lets the calls under way finish; a second, or half a minute, cuts them off."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if batch.interrupted:
            task.cancel()
            return
        batch.interrupt()
        for base in bases(model):
            base.scheduler.refuse_waiting(BudgetExceeded("the run was interrupted"))
        click.echo("stopping: calls under way are let finish; Ctrl-C again cuts them off", err=True)
        loop.call_later(_DRAIN_SECONDS, task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _report(batch: BatchRun, options: dict[str, Any], *, quiet: bool) -> int:
    """Write the output, say what came of the run, and give the exit code."""
    kept = batch.directory.path / "output.jsonl"
    batch.write_output(kept)
    output = options["output"]
    if output == "-":
        for line in batch.lines():
            sys.stdout.buffer.write(line + b"\n")
    elif output:
        batch.write_output(Path(output))
    summary = batch.summary()
    if options["as_json"]:
        facts = structs.asdict(summary) | {"score": summary.score, "output": str(output or kept)}
        click.echo(msgspec.json.encode(facts), err=output == "-")
    if not quiet:
        from shoal.cli.show import print_run

        print_run(batch, summary, str(output if output and output != "-" else kept), options["answer"])
    left = summary.rows - summary.finished - summary.failed
    if batch.interrupted and left:
        click.echo(f"interrupted with {left} rows left; the same command resumes in {batch.directory.path}", err=True)
        return 130
    if batch.stopped is not None:
        click.echo(f"stopped: {batch.stopped}; the same command with a larger --budget resumes", err=True)
    return 1 if summary.failed or left else 0
