"""From the options of `shoal run` and `shoal plan` to what a run needs: rows, what is asked of each, who rates it."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from shoal.batch.programs import load_program
from shoal.batch.rows import Input, Row
from shoal.batch.runner import Judge, RowProgram
from shoal.cli.options import SAMPLING, sampling_of, stacked
from shoal.cli.templates import asked_of, crossed, template_requests
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.scorers import SCORERS, open_scorer, unscored
from shoal.prompting import llm
from shoal.prompting.messages import parse_messages
from shoal.prompting.template import Template
from shoal.runtime.model import Model
from shoal.runtime.types import Message, Request
from shoal.techniques.opening import identities

score_options = stacked(
    click.option("--answer", metavar="COLUMN", help="The column with the expected answer."),
    click.option("--scorer", metavar="|".join(SCORERS), help="How to compare with it; default exact."),
    click.option("--limit", type=click.IntRange(1), help="Only the first rows."),
    click.option("--max-in-flight", type=click.IntRange(1), metavar="K", help="Most requests at once."),
    click.option("--queries-per-batch", type=click.IntRange(1), metavar="K", help="Bare prompts in one request."),
)


def rows_of(data: str | None, scratch: Path, options: dict[str, Any]) -> Input:
    """The rows of DATA, or of templates and their arguments; `scratch` is for what is no file yet."""
    if data is None:
        return crossed(scratch, options)
    return _standard_input(scratch, options) if data == "-" else Input(Path(data), options["limit"])


def program_of(rows: Input, model: Model, options: dict[str, Any]) -> RowProgram:
    """What is done with each row: checked against the columns before anything is spent."""
    if not options["program"]:
        request_of = _request_maker(rows, options)
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


def _request_maker(rows: Input, options: dict[str, Any]) -> Callable[[Row], Request]:
    """How a row becomes a request: checked against the columns before anything is spent."""
    if options["template"]:
        return template_requests(options)
    params, system = sampling_of(options), options["system"]
    column = options["messages"]
    if column and options["prompt"]:
        raise UsageError("give --prompt or --messages, not both")
    if column:
        _known_column("--messages", column, rows)
    elif not (options["prompt"] or options["bare"] or "prompt" in rows.columns) and "messages" in rows.columns:
        column = "messages"
    if column:
        before = (Message("system", system),) if system else ()
        return lambda row: Request(messages=before + parse_messages(row.get(column)), params=params)
    template = Template(options["prompt"] or "{prompt}")
    for name in sorted(template.names):
        _known_column("the template", name, rows)
    return lambda row: structs.replace(asked_of(template.fill(row), system, bare=options["bare"]), params=params)


def _known_column(where: str, name: str, rows: Input) -> None:
    if name not in rows.columns:
        raise UsageError(f"{where} names column {name!r}; {rows.label} has none: {did_you_mean(name, rows.columns)}")


def judge_of(rows: Input, options: dict[str, Any]) -> Judge:
    """How an answer is found in a completion, and scored."""
    target, name = options["answer"], options["scorer"]
    if name and not target:
        raise UsageError("--scorer needs --answer COLUMN to compare with")
    scorer = open_scorer(name or "exact")
    if not target:
        return unscored
    _known_column("--answer", target, rows)
    return scorer.against(target)


def identity_of(options: dict[str, Any], model: Model, program: RowProgram) -> dict[str, Any]:
    """What makes a run this run: changing any of it makes another."""
    names = ("program", "prompt", "messages", "system", "technique", "answer", "scorer", "bare", *SAMPLING)
    given = {name: options[name] or None for name in names}
    source = getattr(program, "version", None)
    return given | {"temperature": options["temperature"], "model": identities(model), "source": source}


def run_name(data: str | None, options: dict[str, Any]) -> str:
    stem = "stdin" if data == "-" else Path(data or options["args"] or "").stem
    stem = f"{stem}-templates" if data is None else stem
    parts = [stem, options["program"] or "", options["technique"] or "plain", options["model"]]
    return "-".join(re.sub(r"[^\w.=]+", "_", part).strip("_") for part in parts if part)[:120]


def _standard_input(scratch: Path, options: dict[str, Any]) -> Input:
    """Standard input in a file, so that it can be read more than once."""
    path = scratch / "input.jsonl"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return Input(path, options["limit"], label="standard input")
