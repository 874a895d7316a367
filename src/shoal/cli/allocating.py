"""What `--allocate` of `shoal run` and `shoal plan` means, and what it says of a run."""

from typing import Any

import click

from shoal.batch.allocation import Allocated, Allocation, calls_of_a_sample
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
    if options["program"]:
        raise UsageError("--allocate is for a technique on each row; leave --program out")
    if options.get("pilot"):
        raise UsageError("a pilot cannot tell how --allocate shares the budget out; leave --pilot out")
    calls = calls_of_a_sample(model)
    if scorer_models:
        raise UsageError("--allocate spends all of the budget on samples, and --scorer asks a model, too; leave it out")
    return Allocation(budget, rows.count, calls)


def allocated_identity(options: dict[str, Any], rows: Input) -> dict[str, Any]:
    """What an allocated run is besides: another budget, or one row more, would give every row something else."""
    return {"allocate": {"budget": options["budget"], "rows": rows.count}} if options["allocate"] else {}


def told(result: Allocated) -> str:
    """How the budget went, in one line for people."""
    samples = f"{result.least} to {result.most} samples a row (median {result.median:g})"
    settled = f"{words.count(result.settled)} settled early, {words.count(result.moved)} samples moved"
    return f"{samples}, {settled}, {result.rounds} rounds"
