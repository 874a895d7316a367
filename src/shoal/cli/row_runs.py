"""From the options of `shoal run` and `shoal plan` to what a run needs: rows, a program, a scorer, a name."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from shoal.batch.programs import load_program
from shoal.batch.rows import Input
from shoal.batch.runner import RowProgram
from shoal.batch.sharding import parse_shard, refuse_other_shards, refuse_unmerged
from shoal.cli.asking import given_scorer, request_maker, standard_input
from shoal.cli.options import SAMPLING, stacked
from shoal.cli.templates import crossed, template_requests
from shoal.errors import UsageError
from shoal.evaluation.datasets.naming import data_path
from shoal.evaluation.scorers import Scorer
from shoal.prompting import llm
from shoal.runtime.model import Model
from shoal.techniques.opening import identities
from shoal.techniques.spec import OpenBase

answer_options = stacked(
    click.option("--answer", metavar="COLUMN", help="The column with the expected answer."),
    click.option("--scorer", metavar="SPEC", help="How to rate answers (see `shoal scorers`); default exact."),
)

score_options = stacked(
    answer_options,
    click.option("--limit", type=click.IntRange(1), help="Only the first rows."),
    click.option("--max-in-flight", type=click.IntRange(1), metavar="K", help="Most requests at once."),
    click.option("--queries-per-batch", type=click.IntRange(1), metavar="K", help="Bare prompts in one request."),
)

shard_option = click.option("--shard", metavar="i/n|auto", help="Only every n-th row, from i (0 is the first) on.")


def with_shard(options: dict[str, Any]) -> dict[str, Any]:
    """The options with --shard as a Shard, and what else goes with one."""
    if options["shard"] is None:
        return options
    shard = parse_shard(options["shard"])
    if options.get("output") not in (None, "-"):
        raise UsageError("--shard: all shards would write the one -o; leave it to `shoal merge RUN -o OUT.jsonl`")
    # The user's cache may lie where many machines have it, and SQLite's files cannot be shared by machines.
    shared = "SHOAL_CACHE" not in os.environ and not options["replay"]
    return options | {"shard": shard, "no_cache": options["no_cache"] or shared}


def refuse_overwriting(data: str | None, options: dict[str, Any]) -> None:
    """UsageError where -o names what the rows are read from."""
    output = Path(options["output"] or "-")
    for path in (data, options["args"]):
        if path and output.exists() and Path(path).exists() and output.samefile(path):
            raise UsageError(f"-o {output} would overwrite the rows themselves; name another file")


def place_of(directory: Path, identity: dict[str, Any], rows: Input) -> Path:
    """Where this run is kept, its shard being in a directory of its own; refused where it would be done in vain."""
    if rows.shard is None:
        refuse_unmerged(directory)
        return directory
    refuse_other_shards(directory, rows.shard, identity, rows)
    return directory / rows.shard.folder


def rows_of(data: str | None, scratch: Path, options: dict[str, Any]) -> Input:
    """The rows of DATA, or of templates and their arguments, and which of them are this shard's.

    `scratch` is for what is no file yet.
    """
    if data is None:
        rows = crossed(scratch, options)
    elif data == "-":
        rows = standard_input(scratch, options)
    else:
        rows = Input(data_path(data), options["limit"], label=data)
    rows.shard = options.get("shard")
    return rows


def program_of(rows: Input, model: Model, options: dict[str, Any]) -> RowProgram:
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


def sample_as_told(options: dict[str, Any]) -> None:
    """Sampling options are defaults for a program's calls."""
    given = {name: options[name] for name in SAMPLING if options[name] not in (None, ())}
    if options["program"] and given:
        llm.completion.configure(**given)
        llm.completions.configure(**given)


def scorer_of(rows: Input, options: dict[str, Any], open_base: OpenBase) -> Scorer | None:
    """How answers are rated: checked against the columns and the targets before anything is spent."""
    scorer = given_scorer(rows, options, open_base)
    if scorer is not None:
        scorer.check_rows(rows, options["answer"])
    return scorer


def identity_of(options: dict[str, Any], model: Model, program: RowProgram, scorer: Scorer | None) -> dict[str, Any]:
    """What makes a run this run: changing any of it makes another."""
    names = ("program", "prompt", "messages", "system", "technique", "answer", "scorer", "bare", *SAMPLING)
    given = {name: options[name] or None for name in names}
    source = getattr(program, "version", None)
    given |= {"temperature": options["temperature"], "model": identities(model), "source": source}
    if scorer:
        given |= {"scorer_source": scorer.version or None, "scorer_models": scorer.identity["models"] or None}
    return given


def run_name(data: str | None, options: dict[str, Any]) -> str:
    stem = "stdin" if data == "-" else Path(data or options["args"] or "").stem
    stem = f"{stem}-templates" if data is None else stem
    parts = [stem, options["program"] or "", options["technique"] or "plain", options["model"]]
    parts += [f"allocate {options['budget']}"] if options["allocate"] else []
    return folder_name(parts)


def folder_name(parts: Iterable[str]) -> str:
    """The name of a folder, made of what it is for."""
    return "-".join(re.sub(r"[^\w.=]+", "_", part).strip("_") for part in parts if part)[:120]
