"""`shoal compare --plan`: what a comparison will cost, each arm alone and all of them on one pool of draws."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from msgspec import structs
from rich.table import Table

from shoal.backends.config import without_keys
from shoal.backends.loop import run as run_program
from shoal.backends.prices import prices_of
from shoal.batch.directory import refuse_other_run
from shoal.batch.waves import waves_of
from shoal.cli.plan_table import amount, print_plan, standard_output
from shoal.errors import RunError, UsageError
from shoal.evaluation.comparing.arms import Wanted, candidates
from shoal.evaluation.comparing.budgeting import Pilot as SizePilot
from shoal.evaluation.comparing.budgeting import fitted, read_sizes
from shoal.evaluation.comparing.comparing import Comparing, Settings
from shoal.evaluation.comparing.costs import Prices
from shoal.evaluation.comparing.planning import ComparisonPlan, Sizing, Terms, plan_arms
from shoal.evaluation.comparing.planning_sizes import plan_sized
from shoal.evaluation.comparing.planning_waves import by_batch
from shoal.evaluation.comparing.travelling import travelling
from shoal.evaluation.comparing.work import Asked
from shoal.planning import Pilot
from shoal.planning.predicting import FEWEST_ROWS
from shoal.planning.waves import Travel, travel_of
from shoal.runtime.cache import DrawCache
from shoal.runtime.model import Model
from shoal.techniques.opening import bases
from shoal.traces.words import dollars


def plan_compare(
    asked: Asked, wanted: Wanted, comparison: tuple[Path, Settings], *, rows: int | None
) -> ComparisonPlan:
    """The plan of what `Comparing` would do. With `rows`, so many are run for real, and kept in its directory."""
    directory, settings = comparison
    if settings.offline:
        raise UsageError("--replay asks nothing, so there is nothing to plan; leave it out")
    if rows is None:
        return run_program(_unasked(asked, wanted, directory, settings))
    if rows < FEWEST_ROWS:
        raise UsageError(f"--pilot {rows}: too few rows to predict from; take at least {FEWEST_ROWS}")
    with Comparing(asked, wanted, directory, settings) as comparing:
        if waves := waves_of(comparing.home):
            out = sum(wave.requests for wave in waves)
            raise RunError(
                f"{directory} waits for {out} calls sent by the batch API; collect them, or leave --pilot out"
            )
        return run_program(_piloted(comparing, rows))


async def _piloted(comparing: Comparing, rows: int) -> ComparisonPlan:
    settings, work = comparing.settings, comparing.work
    arms = comparing.candidates
    said: list[str] = []
    try:
        await work.asked.scorer.need()
        if settings.equal is not None:
            pilot = SizePilot(work, settings.equal, comparing.prices, settings.pilot)
            arms, said = await fitted(arms, pilot, comparing.directory / "sizes.json")
        prices = prices_of(settings.config)
        pool = work.pool
        travel = _travel([arm.model for arm in arms], work.asked, settings)
        terms = Terms(work.asked, prices, (pool.find,), Pilot(rows), pool, travel)
        told = by_batch(terms, await plan_arms(terms, arms), arms)
    finally:
        for base in comparing.models:
            await base.aclose()
    total = structs.replace(told.total, notes=(*told.total.notes, *said))
    return structs.replace(told, total=total)


async def _unasked(asked: Asked, wanted: Wanted, directory: Path, settings: Settings) -> ComparisonPlan:
    """Nothing is asked, and nothing is written."""
    config = without_keys(settings.config)
    resumed = refuse_other_run(directory, asked.identity, asked.rows, "--report-dir")
    arms, equal = candidates(wanted, None, config), settings.equal
    models = {base.backend.identity: base for base in bases([arm.model for arm in arms])}
    travel = _travel([arm.model for arm in arms], asked, settings)
    if equal is not None and equal.unit == "dollars":
        Prices(config, models).check()
    draws = directory / "draws.sqlite"
    pool = DrawCache(draws, read_only=True) if resumed and draws.exists() else None
    terms = Terms(asked, prices_of(config), (pool.get,) if pool is not None else (), travel=travel)
    try:
        if equal is None:
            told = await plan_arms(terms, arms)
        else:
            told = await plan_sized(terms, arms, equal, settings.pilot, read_sizes(directory / "sizes.json"))
        return by_batch(terms, told, arms)
    finally:
        if pool is not None:
            pool.close()
        for base in models.values():
            await base.aclose()


def _travel(compared: Sequence[Model], asked: Asked, settings: Settings) -> Travel | None:
    return travel_of(travelling(compared, asked.scorer.models), settings.waves) if settings.waves else None


def print_comparison_plan(plan: ComparisonPlan, *, as_json: bool) -> None:
    """Print it on standard output: the arms, and then what is paid for all of them together."""
    if as_json:
        click.echo(msgspec.json.encode(plan))
        return
    console = standard_output()
    console.print(_arms(plan))
    console.print()
    if plan.sizing is not None:
        console.print(_sizing(plan.sizing))
        console.print()
    console.print("together, draws in common counted once; curves ask nothing more:")
    print_plan(plan.total)


def _arms(plan: ComparisonPlan) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("each alone", "calls", "requests", "prompt tokens", "completion tokens", "money"):
        table.add_column(heading)
    for arm in plan.arms:
        told = arm.plan
        figures = (told.calls, told.wire_requests, told.prompt_tokens, told.completion_tokens)
        money = "unknown" if told.dollars is None else amount(told.dollars, dollars)
        table.add_row(arm.name, *map(amount, figures), money)
    return table


def _sizing(sizing: Sizing) -> str:
    sizes = [f"{name} at {low}" + (f" to {high}" if low < high else "") for name, (low, high) in sizing.sizes.items()]
    tried = f"sizes are chosen on {sizing.rows} rows, which takes {amount(sizing.calls)} calls"
    return f"{tried}: {', '.join(sizes)}" if sizes else "no technique has a size to choose"
