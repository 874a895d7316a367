"""`shoal run`: a prompt over every row of a data file."""

import asyncio
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec

from shoal.backends.loop import run as run_program
from shoal.backends.prices import paid
from shoal.batch.allocation import allocated_identity
from shoal.batch.directory import RunDirectory
from shoal.batch.rows import Input
from shoal.batch.runner import BatchRun, RowProgram, Summary, window_for
from shoal.cli.allocating import allocate_option, allocation_of
from shoal.cli.options import (
    Headed,
    model_options,
    named_model,
    opener_from,
    pilot_options,
    row_options,
    sampling_options,
    scoped,
    with_suggestions,
)
from shoal.cli.outcome import as_json, figure_of
from shoal.cli.row_runs import (
    identity_of,
    place_of,
    program_of,
    refuse_overwriting,
    rows_of,
    run_name,
    sample_as_told,
    score_options,
    scorer_of,
    shard_option,
    with_shard,
)
from shoal.cli.stopping import stop_on_signals
from shoal.cli.templates import check_options
from shoal.cli.wave_options import batch_api_options, in_waves, tell_of_waves, window_of
from shoal.errors import StoreError, UsageError
from shoal.evaluation.scorers import Scorer, unscored
from shoal.runtime import registry
from shoal.runtime.budget import Budget
from shoal.runtime.model import Applied, Model
from shoal.runtime.scratch import scratch_directory
from shoal.techniques.opening import bases, refuse_unpriced


@click.command(cls=Headed)
@click.argument("data", required=False)
@row_options
@model_options
@sampling_options
@click.option("-o", "--output", metavar="OUT.jsonl", help="Also write the output here; - for standard output.")
@score_options
@click.option("--plan", is_flag=True, help="Say what the run will cost, and run nothing.")
@pilot_options
@click.option("--budget", metavar="calls=,tokens=,seconds=,dollars=", help="Stop when this much is spent.")
@allocate_option
@batch_api_options
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/ and a name.")
@shard_option
@click.option("--trace", "traced", is_flag=True, help="Keep each row's call tree, for `shoal trace`.")
@click.option("--quiet", is_flag=True, help="No progress and no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(data: str | None, **options: Any) -> int:
    """Run a prompt over every row of DATA (JSONL, JSON, CSV, TSV, Parquet, or - for JSON Lines on standard input).

    data/NAME is a data set that ships with shoal and "puzzle/NAME?size=200&seed=1" are generated puzzles (`shoal data`
    lists both), where no file is called so; without -p, --answer and --scorer those that they suggest are used.

    With --template, every template over every row of --args instead: template by template.

    Every finished call is kept in the run directory: the same command continues a run that was stopped or killed.

    With --shard i/n only every n-th row, from row i on, in a directory of its own within the run's; --budget and the
    scores are of the shard. `shoal merge` puts the shards together.
    """
    budget = Budget.parse(options["budget"]) if options["budget"] else None
    if options["plan"]:
        from shoal.cli.plan import plan_run

        return plan_run(data, options)
    if options["pilot"]:
        raise UsageError("--pilot is for --plan")
    check_options(data, options)
    refuse_overwriting(data, options)
    options = with_shard(with_suggestions(data, options))
    directory = options["run_dir"] or Path("runs", run_name(data, options))
    with scratch_directory() as place:
        return _run(rows_of(data, place, options), directory, budget, options)


def _run(rows: Input, directory: Path, budget: Budget | None, options: dict[str, Any]) -> int:
    asleep = window_of(options)
    open_base = opener_from(options, options["max_in_flight"], options["queries_per_batch"])
    model = named_model(options, open_base)
    program = program_of(rows, model, options)
    scorer = scorer_of(rows, options, open_base)
    judge = scorer.against(options["answer"]) if scorer else unscored
    judges = list(scorer.models) if scorer else []
    refuse_unpriced(budget, [model, *judges])
    identity = identity_of(options, model, program, scorer)
    allocation = allocation_of(options, budget, rows, model, judges)
    identity |= allocated_identity(allocation, rows) if allocation else {}
    directory = place_of(directory, identity, rows)
    name = "@".join(part for part in (options["program"], options["technique"]) if part) or None
    with RunDirectory(directory, identity, rows) as place, registry.using(model), scoped(options):
        sample_as_told(options)
        # A judge comes after the model: it holds no row back.
        window = asleep or window_for(bases(model))
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

    async def carried_out() -> None:
        async with in_waves(models, batch.directory, options):
            await batch.execute(program, budget)

    task = asyncio.ensure_future(carried_out())
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
    code = _report(batch, model, scorer, options, quiet=quiet)
    tell_of_waves(batch.directory, options)
    return code


def _progress(batch: BatchRun, models: list[Model]) -> Any:
    from shoal.cli.show import RunProgress

    return RunProgress(batch, models)


def _report(batch: BatchRun, model: Model, scorer: Scorer | None, options: dict[str, Any], *, quiet: bool) -> int:
    """Write the output, say what came of the run, and give the exit code."""
    place = _write(batch, options["output"])
    summary = batch.summary()
    summary.dollars = paid(bases(model), summary.usage)
    lines = (line for number, line in batch.directory.journal.records() if number < batch.rows.count)
    figure = figure_of(scorer.metric if scorer else None, lines, options["answer"])
    allocated = batch.allocation.result() if batch.allocation else None
    if options["as_json"]:
        facts = as_json(summary, options["output"] or place, figure)
        facts |= {"shard": str(batch.rows.shard)} if batch.rows.shard else {}
        facts |= {"allocated": allocated} if batch.allocation else {}
        click.echo(msgspec.json.encode(facts), err=options["output"] == "-")
    if not quiet:
        from shoal.cli.show import print_run, rate_of

        records, answer = batch.directory.journal.records(), options["answer"]
        rate = rate_of(summary, batch.progress.usage)
        print_run(records, summary, place, answer, figure, failures=batch.errors, seconds=rate, allocated=allocated)
        if batch.rows.shard:
            whole = batch.directory.path.parent
            click.echo(f"this is shard {batch.rows.shard}; shoal merge {whole} puts all shards together", err=True)
    unscored = summary.finished - summary.scored
    if scorer and unscored:
        click.echo(f"{options['scorer']} came to no score for {unscored} of {summary.finished} answers", err=True)
    return _ended(batch, summary)


def _write(batch: BatchRun, output: str | None) -> str:
    """Write the output where it is kept, and where --output says; the place to name."""
    kept = batch.directory.path / "output.jsonl"
    batch.write_output(kept)
    if output == "-":
        for line in batch.lines():
            sys.stdout.buffer.write(line + b"\n")
    elif output:
        batch.write_output(Path(output))
    return str(output if output and output != "-" else kept)


def _ended(batch: BatchRun, summary: Summary) -> int:
    """Say why the run ended where rows are left, and give the exit code."""
    left = summary.rows - summary.finished - summary.failed
    if batch.interrupted and left:
        click.echo(f"interrupted with {left} rows left; the same command resumes in {batch.directory.path}", err=True)
        return 130
    if batch.rows.changed and left:
        what = f"{batch.rows.label} was changed while the run read it, so {left} rows are left"
        click.echo(f"{what}: put it back, and the same command resumes, or choose another --run-dir", err=True)
    if batch.stopped is not None:
        another, same = "with a larger --budget it is another run", "the same command with a larger --budget resumes"
        click.echo(f"stopped: {batch.stopped}; {another if batch.allocation else same}", err=True)
    return 1 if summary.failed or left else 0
