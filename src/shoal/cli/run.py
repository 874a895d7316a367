"""`shoal run`: a prompt over every row of a data file."""

import asyncio
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import UNSET, structs

from shoal.backends.loop import run as run_program
from shoal.batch.allocation import allocated_identity
from shoal.batch.directory import RunDirectory
from shoal.batch.records import decode
from shoal.batch.rows import Input
from shoal.batch.runner import BatchRun, RowProgram, window_for
from shoal.cli.allocating import allocate_option, allocation_of
from shoal.cli.options import (
    model_options,
    named_model,
    opener_from,
    pilot_options,
    row_options,
    sampling_options,
    scoped,
    with_suggestions,
)
from shoal.cli.row_runs import (
    identity_of,
    program_of,
    rows_of,
    run_name,
    sample_as_told,
    score_options,
    scorer_of,
)
from shoal.cli.stopping import stop_on_signals
from shoal.cli.templates import check_options
from shoal.errors import StoreError, UsageError
from shoal.evaluation.scorers import Scorer, unscored
from shoal.runtime import registry
from shoal.runtime.budget import Budget
from shoal.runtime.model import Applied, Model
from shoal.techniques.opening import bases


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
@allocate_option
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/ and a name.")
@click.option("--trace", "traced", is_flag=True, help="Keep each row's call tree, for `shoal trace`.")
@click.option("--quiet", is_flag=True, help="No progress and no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(data: str | None, **options: Any) -> int:
    """Run a prompt over every row of DATA (JSONL, JSON, CSV, TSV, Parquet, or - for JSON Lines on standard input).

    data/NAME is a data set that ships with shoal and "puzzle/NAME?size=200&seed=1" are generated puzzles (`shoal data`
    lists both), where no file is called so; without -p, --answer and --scorer those that they suggest are used.

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
    options = with_suggestions(data, options)
    directory = options["run_dir"] or Path("runs", run_name(data, options))
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        return _run(rows_of(data, Path(scratch), options), directory, budget, options)


def _run(rows: Input, directory: Path, budget: Budget | None, options: dict[str, Any]) -> int:
    open_base = opener_from(options, options["max_in_flight"], options["queries_per_batch"])
    model = named_model(options, open_base)
    program = program_of(rows, model, options)
    scorer = scorer_of(rows, options, open_base)
    judge = scorer.against(options["answer"]) if scorer else unscored
    identity = identity_of(options, model, program, scorer)
    allocation = allocation_of(options, budget, rows, model, list(scorer.models) if scorer else [])
    identity |= allocated_identity(allocation, rows) if allocation else {}
    name = "@".join(part for part in (options["program"], options["technique"]) if part) or None
    with RunDirectory(directory, identity, rows) as place, registry.using(model), scoped(options):
        sample_as_told(options)
        window = window_for(bases(model))  # a judge comes after the model: it holds no row back
        batch = BatchRun(place, rows, model=options["model"], technique=name, window=window, judge=judge)
        batch.traced = options["traced"]
        batch.allocation = allocation
        return run_program(_execute(batch, model, program, scorer, budget, options))


async def _execute(
    batch: BatchRun,
    model: Model,
    program: RowProgram,
    scorer: Scorer | None,
    budget: Budget | None,
    options: dict[str, Any],
) -> int:
    quiet = options["quiet"] or options["as_json"]
    models = [model, *(scorer.models if scorer else ())]
    if scorer:
        await scorer.need()
    if isinstance(model, Applied):
        from shoal.planning.checking import refuse_impossible

        await refuse_impossible(model)
    task = asyncio.ensure_future(batch.execute(program, budget))
    stop_on_signals(batch, models, task)
    try:
        with nullcontext() if quiet else _progress(batch, models):
            await task
    except asyncio.CancelledError:
        if not batch.interrupted:
            raise
    except StoreError as error:
        raise StoreError(f"{error}; nothing finished is lost: mend that, and the same command resumes") from error
    finally:
        for base in bases(models):
            await base.aclose()
    return _report(batch, scorer, options, quiet=quiet)


def _progress(batch: BatchRun, models: list[Model]) -> Any:
    from shoal.cli.show import RunProgress

    return RunProgress(batch, models)


def _report(batch: BatchRun, scorer: Scorer | None, options: dict[str, Any], *, quiet: bool) -> int:
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
    metric = _metric(batch, scorer, options["answer"])
    if options["as_json"]:
        facts = structs.asdict(summary) | {"score": summary.score, "output": str(output or kept)}
        facts |= {"metric": metric[0], "value": metric[1]} if metric else {}
        facts |= {"allocated": batch.allocation.result()} if batch.allocation else {}
        click.echo(msgspec.json.encode(facts), err=output == "-")
    if not quiet:
        from shoal.cli.show import print_run

        print_run(batch, summary, str(output if output and output != "-" else kept), options["answer"], metric)
    unscored = summary.finished - summary.scored
    if scorer and unscored:
        click.echo(f"{options['scorer']} came to no score for {unscored} of {summary.finished} answers", err=True)
    left = summary.rows - summary.finished - summary.failed
    if batch.interrupted and left:
        click.echo(f"interrupted with {left} rows left; the same command resumes in {batch.directory.path}", err=True)
        return 130
    if batch.stopped is not None and batch.allocation is not None:
        click.echo(f"stopped: {batch.stopped}; with a larger --budget it is another run", err=True)
    elif batch.stopped is not None:
        click.echo(f"stopped: {batch.stopped}; the same command with a larger --budget resumes", err=True)
    return 1 if summary.failed or left else 0


def _metric(batch: BatchRun, scorer: Scorer | None, target: str | None) -> tuple[str, float] | None:
    """The scorer's figure over the rows that have a score: its name, and what it is."""
    if scorer is None:
        return None
    records = (decode(line) for number, line in batch.directory.journal.records() if number < batch.rows.count)
    rows = [
        (record.score, record.answer, record.input.get(target) if target else None)
        for record in records
        if record.score is not UNSET
    ]
    return (scorer.metric.name, scorer.metric.of(rows)) if rows else None
