"""`shoal compare`: techniques side by side on the rows of a data file."""

import asyncio
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from shoal.backends.config import Config, load_config, without_keys
from shoal.backends.loop import run as run_program
from shoal.cli.asking import given_scorer, request_maker
from shoal.cli.options import SAMPLING, prompt_options, sampling_options, with_suggestions
from shoal.cli.row_runs import answer_options, folder_name, rows_of
from shoal.cli.stopping import stop_on_signals
from shoal.cli.wave_options import batch_api_options, settings_of, tell_of_waves, teller, window_of
from shoal.errors import BudgetExceeded, UsageError
from shoal.evaluation import report
from shoal.evaluation.comparing.arms import Wanted
from shoal.evaluation.comparing.budgeting import EqualBudget
from shoal.evaluation.comparing.comparing import Comparing, Settings, with_targets
from shoal.evaluation.comparing.result import Comparison, encode
from shoal.evaluation.comparing.work import Asked
from shoal.runtime.budget import Budget
from shoal.runtime.scratch import scratch_directory
from shoal.techniques.opening import opener

_TRIED_ON = 10  # rows that an equal budget's sizes are tried on


@click.command()
@click.argument("data")
@prompt_options
@answer_options
@click.option("-m", "--model", multiple=True, metavar="SPEC", help="A model; repeatable. Default: local.")
@click.option("-t", "--technique", multiple=True, metavar="TECHNIQUE", help="As self_consistency(n=1..64); repeatable.")
@click.option("--no-plain", is_flag=True, help="Leave out the model by itself.")
@click.option("--curve", is_flag=True, help="Show every technique at smaller sizes, too.")
@click.option("--equal-budget", metavar="tokens=|calls=|dollars=", help="Choose each technique's size by a row's cost.")
@click.option("--plan", is_flag=True, help="Say what the comparison will cost, and make none.")
@click.option("--pilot", type=click.IntRange(1), metavar="K", help="Rows to try sizes on (10), to run for --plan.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="As of other commands.")
@click.option("--replay", is_flag=True, help="Ask nothing: every draw must be in the report directory.")
@sampling_options
@click.option("--limit", type=click.IntRange(1), help="Only the first rows.")
@click.option("--budget", metavar="calls=,tokens=,seconds=,dollars=", help="Stop when this much is spent.")
@batch_api_options
@click.option("--report-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/ and a name.")
@click.option("--title", default="", help="Of the report.")
@click.option("--quiet", is_flag=True, help="No progress and no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(data: str, **options: Any) -> int:
    """Compare techniques on the rows of DATA (as of `shoal run`): how good each is, how sure that is, what it costs.

    Draws that techniques have in common are asked once. Everything is kept in the report directory: the same command
    continues a comparison that was stopped or killed, and one with a technique more asks only for what is new.
    """
    options = with_suggestions(data, options)
    window_of(options)
    config = load_config(options["config"])
    models = options["model"] or ("local",)
    wanted = Wanted(options["technique"], models, not options["no_plain"], options["curve"])
    directory = options["report_dir"] or Path("runs", _name(data, models))
    settings = _settings(config, options)
    with scratch_directory() as place:
        asked = _asked(data, place, config, options)
        if options["plan"]:
            return _plan(asked, wanted, (directory, settings), options)
        with Comparing(asked, wanted, directory, settings) as comparing:
            code = run_program(_execute(comparing, options))
            tell_of_waves(comparing.home, options)
            return code


def _settings(config: Config, options: dict[str, Any]) -> Settings:
    budget, equal = options["budget"], options["equal_budget"]
    return Settings(
        config,
        options["title"],
        EqualBudget.parse(equal, by_batch=options["batch_api"]) if equal else None,
        options["pilot"] or _TRIED_ON,
        Budget.parse(budget) if budget else None,
        options["replay"],
        (shlex.join(["shoal", *sys.argv[1:]]),) if sys.argv[1:2] == ["compare"] else (),
        settings_of(options),
        teller(options),
    )


def _plan(asked: Asked, wanted: Wanted, comparison: tuple[Path, Settings], options: dict[str, Any]) -> int:
    from shoal.cli.compare_plan import plan_compare, print_comparison_plan

    plan = plan_compare(asked, wanted, comparison, rows=options["pilot"])
    print_comparison_plan(plan, as_json=options["as_json"])
    return 0


async def _execute(comparing: Comparing, options: dict[str, Any]) -> int:
    quiet = options["quiet"] or options["as_json"]
    work, scorer = comparing.work, comparing.work.asked.scorer
    task = asyncio.ensure_future(comparing.run())
    stop_on_signals(work, [*comparing.models, *scorer.models], task)
    try:
        with nullcontext() if quiet else _progress(comparing):
            comparison = await task
    except asyncio.CancelledError:
        if not work.interrupted:
            raise
        return _interrupted(comparing)
    except BudgetExceeded as error:
        if work.interrupted:
            return _interrupted(comparing)
        click.echo(f"stopped: {error}; the same command with a larger --budget resumes", err=True)
        return 1
    finally:
        await scorer.aclose()
    return _report(comparison, comparing, options, quiet=quiet)


def _interrupted(comparing: Comparing) -> int:
    click.echo(f"interrupted; the same command resumes in {comparing.directory}", err=True)
    return 130


def _progress(comparing: Comparing) -> Any:
    from shoal.cli.compared import CompareProgress

    return CompareProgress(comparing)


def _report(comparison: Comparison, comparing: Comparing, options: dict[str, Any], *, quiet: bool) -> int:
    written = report.write(comparison, comparing.directory)
    if options["as_json"]:
        sys.stdout.buffer.write(encode(comparison))
    if not quiet:
        from shoal.cli.compared import print_comparison

        print_comparison(comparison, written[0])
    lost = any(arm.error is not None for arm in comparing.work.arms)
    return 1 if lost or any(arm.failed for arm in comparison.arms) else 0


# From options to what is asked


def _asked(data: str, scratch: Path, config: Config, options: dict[str, Any]) -> Asked:
    """What every row asks, and how its answers are rated: checked before anything is spent."""
    options = options | {"bare": False}
    rows = rows_of(data, scratch, options)
    unasked = options["plan"] and not options["pilot"]
    scorer = given_scorer(rows, options, opener(without_keys(config) if unasked else config))
    if scorer is None:
        raise UsageError("--answer COLUMN is needed: the column with the expected answer")
    request_of = request_maker(rows, options)
    rows, left_out = with_targets(rows, scorer, options["answer"], scratch)
    identity = {name: options[name] or None for name in ("prompt", "messages", "system", *SAMPLING)}
    identity["temperature"] = options["temperature"]
    return Asked(rows, request_of, options["answer"] or None, scorer, identity, left_out)


def _name(data: str, models: tuple[str, ...]) -> str:
    return folder_name(["compare", "stdin" if data == "-" else Path(data).stem, *models])
