"""`shoal plan`, and `--plan` of other commands: what a run will cost, before it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from shoal.backends.config import load_config, without_keys
from shoal.backends.loop import run as run_program
from shoal.backends.prices import prices_of
from shoal.batch.allocation import allocated_identity, with_most_samples
from shoal.batch.directory import refuse_other_run
from shoal.batch.journal import Journal
from shoal.batch.rows import Input, Row
from shoal.batch.waves import of_one_endpoint
from shoal.cli.allocating import allocate_option, allocation_of
from shoal.cli.options import (
    Headed,
    model_options,
    named_model,
    pilot_options,
    row_options,
    sampling_options,
    spending,
    with_suggestions,
)
from shoal.cli.plan_table import print_plan
from shoal.cli.row_runs import (
    identity_of,
    place_of,
    program_of,
    rows_of,
    run_name,
    sample_as_told,
    score_options,
    scorer_of,
    shard_option,
    with_shard,
)
from shoal.cli.templates import check_options
from shoal.cli.wave_options import batch_api_options, settings_of, window_of
from shoal.errors import UsageError
from shoal.evaluation.scorers import unscored
from shoal.planning import Pilot, Plan
from shoal.planning import plan as planned
from shoal.planning.allocating import within_budget
from shoal.planning.dry_run import Kept
from shoal.planning.waves import Travel, in_waves, travel_of
from shoal.runtime import registry
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache, default_cache_path
from shoal.runtime.scratch import scratch_directory
from shoal.runtime.types import Completion
from shoal.techniques.opening import bases, open_cache, opener
from shoal.techniques.spec import OpenBase


@click.command(cls=Headed)
@click.argument("data", required=False)
@row_options
@model_options
@sampling_options
@score_options
@pilot_options
@batch_api_options
@shard_option
@click.option(
    "--budget", metavar="calls=,tokens=,seconds=,dollars=", help="What a pilot may spend, or is to be shared out."
)
@allocate_option
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="The run's; default: as for run.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(data: str | None, **options: Any) -> int:
    """Say what `shoal run` with the same options will cost: calls, requests, tokens, seconds, dollars.

    The program is followed over the rows on stand-ins: no model is asked, no key is needed, nothing is written. With
    --pilot K, K rows are run for real (and kept in the draw cache), and tell how many tokens and seconds rows take.
    With --shard it is the plan of that shard alone.
    """
    return plan_run(data, options)


def plan_run(data: str | None, options: dict[str, Any]) -> int:
    """Print the plan of what `shoal run` would do with these options."""
    check_options(data, options)
    if options["replay"]:
        raise UsageError("--replay asks nothing, so there is nothing to plan; leave it out")
    options = with_shard(with_suggestions(data, options))
    directory = options["run_dir"] or Path("runs", run_name(data, options))
    with scratch_directory() as place:
        print_plan(_plan(rows_of(data, place, options), directory, options), as_json=options["as_json"])
    return 0


def _plan(rows: Input, directory: Path, options: dict[str, Any]) -> Plan:
    open_base = _opener(options)
    model = named_model(options, open_base)
    program, scorer = program_of(rows, model, options), scorer_of(rows, options, open_base)
    judges = list(scorer.models) if scorer else []
    judge = scorer.against(options["answer"]) if scorer and judges else unscored
    travel = _travel([model, *judges], options)
    identity = identity_of(options, model, program, scorer)
    limit = Budget.parse(options["budget"]) if options["budget"] else None
    allocation = allocation_of(options, limit, rows, model, judges)
    if allocation:
        identity |= allocated_identity(allocation, rows)
        model = with_most_samples(model)
        program = program_of(rows, model, options)
    directory = place_of(directory, identity, rows)
    resumed = refuse_other_run(directory, identity, rows) is not None

    async def row(row: Row) -> Completion:
        completion = await program(row)
        await judge(completion, row)
        return completion

    async def made(done: set[int], kept: list[Kept]) -> Plan:
        pilot = Pilot(options["pilot"], options["pilot_seed"]) if options["pilot"] else None
        prices = prices_of(load_config(options["config"]))
        steady = not options["program"] and not judges  # a judge whose mark cannot be read is asked again
        try:
            told = await planned(
                row, rows, models=[model, *judges], steady=steady, kept=kept, done=done, prices=prices, pilot=pilot
            )
            told = in_waves(told, bases([model, *judges]), prices, travel) if travel else told
            return within_budget(told, allocation.budget) if allocation else told
        finally:
            for base in bases([model, *judges]):
                await base.aclose()

    with registry.using(model), _earlier(directory, resumed=resumed, cache=not options["no_cache"]) as (done, kept):
        sample_as_told(options)
        with spending(options):
            return run_program(made(done, kept))


def _travel(models: list[Any], options: dict[str, Any]) -> Travel | None:
    """How the run's calls travel, where that is by a batch API."""
    window_of(options)
    settings = settings_of(options)
    return travel_of(of_one_endpoint(models), settings) if settings else None


def _opener(options: dict[str, Any]) -> OpenBase:
    """Opens the run's models; without a pilot, without keys and without a cache of their own."""
    config = load_config(options["config"])
    return opener(
        config if options["pilot"] else without_keys(config),
        cache=open_cache(bool(options["pilot"]) and not options["no_cache"]),
        max_in_flight=options["max_in_flight"],
        queries_per_batch=options["queries_per_batch"],
    )


@contextmanager
def _earlier(directory: Path, *, resumed: bool, cache: bool) -> Iterator[tuple[set[int], list[Kept]]]:
    """The rows that the run directory has finished, and where draws of earlier runs are; both are only read."""
    done: set[int] = set()
    kept: list[Kept] = []
    journal = Journal(directory / "journal.sqlite", read_only=True) if resumed else None
    draws = DrawCache(default_cache_path(), read_only=True) if cache and default_cache_path().exists() else None
    try:
        if journal is not None:
            done = journal.done()
            kept.append(journal.completion)
        if draws is not None:
            kept.append(draws.get)
        yield done, kept
    finally:
        for store in (journal, draws):
            if store is not None:
                store.close()
