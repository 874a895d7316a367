"""From a command's options to what a row of its data asks."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import structs

from shoal.batch.rows import Input, Row
from shoal.cli.options import sampling_of
from shoal.cli.templates import asked_of
from shoal.errors import UsageError
from shoal.evaluation.scorers import Scorer, open_scorer
from shoal.prompting.messages import parse_messages
from shoal.prompting.template import Template
from shoal.runtime.types import Message, Request
from shoal.techniques.spec import OpenBase


def request_maker(rows: Input, options: dict[str, Any]) -> Callable[[Row], Request]:
    """How a row becomes a request: checked against the columns before anything is spent."""
    params, system = sampling_of(options), options["system"]
    column = options["messages"]
    if column and options["prompt"]:
        raise UsageError("give --prompt or --messages, not both")
    if column:
        rows.require_column(column, "--messages")
    elif not (options["prompt"] or options["bare"] or "prompt" in rows.columns) and "messages" in rows.columns:
        column = "messages"
    if column:
        before = (Message("system", system),) if system else ()
        return lambda row: Request(messages=before + parse_messages(row.get(column)), params=params)
    template = Template(options["prompt"] or "{prompt}")
    for name in sorted(template.names):
        rows.require_column(name, "the template")
    return lambda row: structs.replace(asked_of(template.fill(row), system, bare=options["bare"]), params=params)


def given_scorer(rows: Input, options: dict[str, Any], open_base: OpenBase) -> Scorer | None:
    """How answers are rated: checked against the columns before anything is spent."""
    target, name = options["answer"], options["scorer"]
    if not target and not name:
        return None
    scorer = open_scorer(name or "exact", open_base)
    if not target and scorer.needs_target:
        raise UsageError(f"--scorer needs --answer COLUMN, which {name} compares with")
    if target:
        rows.require_column(target, "--answer")
    for column in scorer.columns:
        rows.require_column(column, f"--scorer {name}")
    return scorer


def standard_input(scratch: Path, options: dict[str, Any]) -> Input:
    """Standard input in a file, so that it can be read more than once."""
    path = scratch / "input.jsonl"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return Input(path, options["limit"], label="standard input")
