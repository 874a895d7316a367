"""`shoal run`: a prompt over every row of a data file."""

import asyncio
import re
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import UNSET, structs

from shoal.backends.loop import run as run_program
from shoal.batch.directory import RunDirectory
from shoal.batch.programs import load_program
from shoal.batch.records import decode
from shoal.batch.rows import Input
from shoal.batch.runner import BatchRun, RowProgram, window_for
from shoal.cli.asking import known_column, request_maker, standard_input
from shoal.cli.options import (
    SAMPLING,
    data_path,
    model_options,
    named_model,
    opener_from,
    sampling_options,
    scoped,
    with_suggestions,
)
from shoal.cli.stopping import stop_on_signals
from shoal.cli.templates import check_options, crossed, template_requests
from shoal.errors import StoreError, UsageError
from shoal.evaluation.scorers import Scorer, open_scorer, unscored
from shoal.prompting import llm
from shoal.runtime import registry
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.techniques.opening import bases, identities
from shoal.techniques.spec import OpenBase


@click.command()
@click.argument("data", required=False)
@click.option("-p", "--prompt", metavar="TEMPLATE", help='Names columns: "Q: {question}". Default: {prompt}.')
@click.option("--messages", metavar="COLUMN", help="A column that holds whole conversations, instead of -p.")
@click.option("--program", metavar="FILE.py:NAME", help="A program, or a .jinja file; columns are arguments.")
@click.option("--template", multiple=True, metavar="TEXT|@FILE", help="A prompt for every row of --args; repeatable.")
@click.option("--args", metavar="FILE", help="Rows of arguments for the templates, instead of DATA.")
@click.option("--samples", type=click.IntRange(1), default=1, metavar="N", help="Answers to each prompt of --template.")
@click.option("--bare", is_flag=True, help="Continue the bare prompt (text completions), not a chat turn.")
@model_options
@sampling_options
@click.option("-o", "--output", metavar="OUT.jsonl", help="Also write the output here; - for standard output.")
@click.option("--answer", metavar="COLUMN", help="The column with the expected answer.")
@click.option("--scorer", metavar="SPEC", help="How to rate answers (see `shoal scorers`); default exact.")
@click.option("--limit", type=click.IntRange(1), help="Only the first rows.")
@click.option("--max-in-flight", type=click.IntRange(1), metavar="K", help="Most requests at once.")
@click.option("--queries-per-batch", type=click.IntRange(1), metavar="K", help="Bare prompts in one request.")
@click.option("--budget", metavar="calls=,tokens=,seconds=", help="Stop when this much is spent.")
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
    check_options(data, options)
    options = with_suggestions(data, options)
    directory = options["run_dir"] or Path("runs", _run_name(data, options))
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        return _run(_rows(data, Path(scratch), options), directory, budget, options)


def _rows(data: str | None, scratch: Path, options: dict[str, Any]) -> Input:
    if data is None:
        return crossed(scratch, options)
    if data == "-":
        return standard_input(scratch, options)
    return Input(data_path(data), options["limit"], label=data)


def _run(rows: Input, directory: Path, budget: Budget | None, options: dict[str, Any]) -> int:
    open_base = opener_from(options, options["max_in_flight"], options["queries_per_batch"])
    model = named_model(options, open_base)
    program = _program(rows, model, options)
    scorer = _scorer(rows, options, open_base)
    judge = scorer.against(options["answer"]) if scorer else unscored
    identity = _identity(options, model, program, scorer)
    name = "@".join(part for part in (options["program"], options["technique"]) if part) or None
    with RunDirectory(directory, identity, rows) as place, registry.using(model), scoped(options):
        _sample_as_told(options)
        window = window_for(bases(model))  # a judge comes after the model: it holds no row back
        batch = BatchRun(place, rows, model=options["model"], technique=name, window=window, judge=judge)
        batch.traced = options["traced"]
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
        click.echo(msgspec.json.encode(facts), err=output == "-")
    if not quiet:
        from shoal.cli.show import print_run

        print_run(batch, summary, str(output if output and output != "-" else kept), options["answer"], metric)
    left = summary.rows - summary.finished - summary.failed
    if batch.interrupted and left:
        click.echo(f"interrupted with {left} rows left; the same command resumes in {batch.directory.path}", err=True)
        return 130
    if batch.stopped is not None:
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


# From options to what the run needs


def _program(rows: Input, model: Model, options: dict[str, Any]) -> RowProgram:
    """What is done with each row: checked against the columns before anything is spent."""
    if not options["program"]:
        request_of = template_requests(options) if options["template"] else request_maker(rows, options)
        return lambda row: model(request_of(row))
    for other in ("prompt", "messages", "template", "system"):
        if options[other]:
            raise UsageError(f"--program says itself what is asked; leave --{other} out")
    function = load_program(options["program"])
    function.check(rows.columns, rows.label)
    return function


def _sample_as_told(options: dict[str, Any]) -> None:
    """Sampling options are defaults for a program's calls."""
    given = {name: options[name] for name in SAMPLING if options[name] not in (None, ())}
    if options["program"] and given:
        llm.completion.configure(**given)
        llm.completions.configure(**given)


def _scorer(rows: Input, options: dict[str, Any], open_base: OpenBase) -> Scorer | None:
    """How answers are rated: checked against the columns and the targets before anything is spent."""
    target, name = options["answer"], options["scorer"]
    if not target and not name:
        return None
    scorer = open_scorer(name or "exact", open_base)
    if not target and scorer.needs_target:
        raise UsageError(f"--scorer needs --answer COLUMN, which {name} compares with")
    if target:
        known_column("--answer", target, rows)
    for column in scorer.columns:
        known_column(f"--scorer {name}", column, rows)
    scorer.check_rows(rows, target)
    return scorer


def _identity(options: dict[str, Any], model: Model, program: RowProgram, scorer: Scorer | None) -> dict[str, Any]:
    """What makes a run this run: changing any of it makes another."""
    names = ("program", "prompt", "messages", "system", "technique", "answer", "scorer", "bare", *SAMPLING)
    given = {name: options[name] or None for name in names}
    source = getattr(program, "version", None)
    given |= {"temperature": options["temperature"], "model": identities(model), "source": source}
    if scorer:
        given |= {"scorer_source": scorer.version or None, "scorer_models": scorer.identity["models"] or None}
    return given


def _run_name(data: str | None, options: dict[str, Any]) -> str:
    stem = "stdin" if data == "-" else Path(data or options["args"] or "").stem
    stem = f"{stem}-templates" if data is None else stem
    parts = [stem, options["program"] or "", options["technique"] or "plain", options["model"]]
    return "-".join(re.sub(r"[^\w.=]+", "_", part).strip("_") for part in parts if part)[:120]
