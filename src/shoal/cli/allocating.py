"""What `--allocate` of `shoal run` and `shoal plan` means, and what it says of a run."""

from typing import Any

import click

from shoal.batch.allocation import Allocated, Allocation, allocation_for
from shoal.batch.rows import Input
from shoal.errors import UsageError
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.traces import words

allocate_option = click.option(
    "--allocate", is_flag=True, help="Share --budget out: undecided rows get the samples that settled ones do without."
)


def allocation_of(
    options: dict[str, Any], budget: Budget | None, rows: Input, model: Model, scorer_models: list[Model]
) -> Allocation | None:
    """The allocation that the options ask for; UsageError where there can be none."""
    if not options["allocate"]:
        return None
    if budget is None:
        raise UsageError("--allocate shares out a budget; give --budget tokens=N or calls=N")
    if options["program"]:
        raise UsageError("--allocate is for a technique on each row; leave --program out")
    if options.get("pilot"):
        raise UsageError("a pilot cannot tell how --allocate shares the budget out; leave --pilot out")
    return allocation_for(model, rows, budget, scorer_models)


def told(result: Allocated) -> str:
    """How the budget went, in one line for people."""
    samples = f"{result.least} to {result.most} samples a row (median {result.median:g})"
    settled = f"{words.count(result.settled)} settled early, {words.count(result.moved)} samples moved"
    return f"{samples}, {settled}, {result.rounds} rounds"
