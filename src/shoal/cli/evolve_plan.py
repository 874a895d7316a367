"""`shoal evolve --plan`: what a run of evolution will cost, before it is begun or gone on with."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from shoal.backends.config import load_config
from shoal.backends.loop import run as run_program
from shoal.backends.prices import prices_of
from shoal.cli.evolve_opening import continued
from shoal.cli.options import spending
from shoal.cli.plan_table import amount, print_plan
from shoal.evolution import Evolution
from shoal.evolution.costs import Begun, EvolutionPlan, Ways, plan_breeding, plan_gepa
from shoal.evolution.folder import begun_in
from shoal.evolution.gepa import GepaEvolution
from shoal.planning import Pilot
from shoal.techniques.opening import bases


def plan_evolution(evolution: Evolution, options: dict[str, Any]) -> int:
    """Print what the run will cost, from where it stands where it is continued."""
    gepa = isinstance(evolution, GepaEvolution)
    begun = Begun(*begun_in(continued(options), evolution.identity(), from_start=gepa))
    prices = prices_of(load_config(Path(options["config"]) if options["config"] else None))
    pilot = Pilot(options["pilot"], options["seed"]) if options["pilot"] else None
    with spending(options):
        plan = run_program(_planned(evolution, begun, Ways(prices, pilot)))
    if options["as_json"]:
        click.echo(msgspec.json.encode(plan))
        return 0
    console = Console(highlight=False, markup=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, calls in plan.parts.items():
        table.add_row(name, f"{amount(calls)} calls")
    console.print(table)
    console.print()
    print_plan(plan.total, of_rows=False)
    return 0


async def _planned(evolution: Evolution, begun: Begun, ways: Ways) -> EvolutionPlan:
    try:
        if isinstance(evolution, GepaEvolution):
            return await plan_gepa(evolution, begun, ways)
        return await plan_breeding(evolution.run, evolution.model, begun, ways)
    finally:
        for base in bases(list(evolution.models)):
            await base.aclose()
