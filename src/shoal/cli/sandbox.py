"""`shoal sandbox`: what confines model-written code here, and running a program in it."""

import asyncio
import sys
from pathlib import Path
from time import perf_counter

import click
import msgspec

from shoal.errors import UsageError
from shoal.sandbox import Limits, Outcome, Report, run_python
from shoal.sandbox import check as report_of

_RUNS = 5


@click.group()
def sandbox() -> None:
    """See what confines model-written code on this machine, or run a program in it.

    SHOAL_SANDBOX=bubblewrap or =landlock allows that tier only; =off refuses all model-written code.
    """


@sandbox.command()
@click.option("--json", "as_json", is_flag=True)
def check(as_json: bool) -> int:
    """Try the attacks that confinement must stop, and say what it is made of and what it costs. Exit code 1: none."""
    begin = perf_counter()
    report = report_of()
    seconds = {"check": perf_counter() - begin}
    if report.usable:
        seconds["run"] = asyncio.run(_cost())
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(report), "usable": report.usable, "seconds": seconds}))
    else:
        _tell(report, seconds)
    return 0 if report.usable else 1


async def _cost() -> float:
    """Seconds that an empty program takes, the median of a few."""
    taken = []
    for _ in range(_RUNS):
        begin = perf_counter()
        await run_python("pass")
        taken.append(perf_counter() - begin)
    return sorted(taken)[_RUNS // 2]


def _tell(report: Report, seconds: dict[str, float]) -> None:
    width = max((len(layer.name) for layer in report.layers), default=0)
    for layer in report.layers:
        click.echo(f"{'yes' if layer.holds else 'no ':3}  {layer.name:{width}}  {layer.why}")
    if report.usable:
        click.echo(f"in use: {report.isolation}; an empty program takes {1000 * seconds['run']:.0f} ms")
    else:
        click.echo(report.missing)


@sandbox.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--time", "wall", type=float, default=Limits().wall, show_default=True, help="Seconds it may take.")
@click.option("--memory", type=int, default=Limits().memory >> 20, show_default=True, help="MiB it may use.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def run(file: Path, wall: float, memory: int, as_json: bool) -> int:
    """Run the Python program FILE (- for stdin) confined, print what it prints, and end with its exit code.

    Where FILE is a file, the program reads what is piped to this command.
    """
    try:
        code = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        given = "" if str(file) == "-" or sys.stdin.isatty() else sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 ({error.reason})") from error
    outcome = asyncio.run(run_python(code, stdin=given, limits=Limits(wall=wall, cpu=wall, memory=memory << 20)))
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(outcome), "ok": outcome.ok, "error": outcome.error}))
    else:
        _show(outcome)
    return outcome.exit_code if outcome.exit_code is not None and outcome.exit_code >= 0 else 1


def _show(outcome: Outcome) -> None:
    click.echo(outcome.stdout, nl=False)
    click.echo(outcome.stderr, nl=False, err=True)
    if outcome.stopped is not None or (outcome.exit_code or 0) < 0:
        click.echo(f"shoal sandbox: {outcome.error.splitlines()[0]}", err=True)
