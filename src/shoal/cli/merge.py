"""`shoal merge`: shards of a run, or any runs of the same options and rows, as one run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from shoal.batch.merging import Merged, MergedRun, merging
from shoal.batch.waves import requests_out
from shoal.cli.outcome import Figure, as_json, figure_of
from shoal.evaluation.scorers import metric_of
from shoal.traces import words

_MOST_NAMED = 12


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="OUT.jsonl", help="Also write the output here; - for standard output.")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: where the shards lie.")
@click.option("--quiet", is_flag=True, help="No table.")
@click.option("--json", "as_json_", is_flag=True, help="Print the summary as JSON.")
def merge(runs: tuple[Path, ...], output: str | None, run_dir: Path | None, *, quiet: bool, as_json_: bool) -> int:
    """Put the shards of the run directory RUN together, or any runs of the same options and rows.

    The whole is then a run as `shoal run` makes it: the same command without --shard does what is missing. Shards may
    be merged before all are done, and again later; of two results for one row a finished one is taken. The run_dir of
    shoal.ray and shoal.daft is merged likewise, and the same job goes on from it.
    """
    with merging(runs, run_dir) as run:
        return _report(run, output, quiet=quiet or as_json_, json=as_json_)


def _report(run: MergedRun, output: str | None, *, quiet: bool, json: bool) -> int:
    """Write the output, say what came of it, and give the exit code."""
    kept = run.path / "output.jsonl"
    run.write_output(kept)
    if output == "-":
        for line in run.lines():
            sys.stdout.buffer.write(line + b"\n")
    elif output:
        run.write_output(Path(output))
    merged, figure = run.told(), _figure(run)
    if json:
        click.echo(msgspec.json.encode(_facts(merged, str(output or kept), figure)), err=output == "-")
    if not quiet:
        from shoal.cli.show import print_run

        print_run(
            run.records(),
            merged.summary,
            str(output if output and output != "-" else kept),
            run.config.options.get("answer"),
            figure,
            failures=merged.failures,
            seconds=f"{words.seconds(merged.summary.seconds)} to merge {len(merged.runs)} runs",
        )
    for remark in _remarks(merged):
        click.echo(remark, err=True)
    return 1 if merged.summary.failed or merged.missing else 0


def _figure(run: MergedRun) -> Figure | None:
    """The scorer's figure over the whole."""
    options = run.config.options
    target, spec = options.get("answer"), options.get("scorer")
    if not target and not spec:
        return None
    return figure_of(metric_of(spec or "exact"), (line for _, line in run.records()), target)


def _facts(merged: Merged, output: str, figure: Figure | None) -> dict[str, object]:
    return as_json(merged.summary, output, figure) | {
        "run_dir": str(merged.path),
        "merged": [str(run) for run in merged.runs],
        "missing": merged.missing,
        "incomplete_shards": merged.incomplete,
        "differing_rows": merged.differing_rows,
        "differing_draws": merged.differing_draws,
    }


def _remarks(merged: Merged) -> Iterator[str]:
    """What somebody should know, a line each."""
    if merged.differing_rows or merged.differing_draws:
        yield (
            f"{words.count(merged.differing_rows)} rows and {words.count(merged.differing_draws)} draws were made in "
            "several runs, not with the same result; one of them was taken"
        )
    if out := [run for run in merged.runs if requests_out(run)]:
        requests = sum(map(requests_out, out))
        yield (
            f"{words.count(requests)} calls of {', '.join(map(str, out[:_MOST_NAMED]))} are out by the batch API: "
            "collect them there first, by the same command, or they will be paid again"
        )
    if merged.missing:
        lacking = [f"shard {shard} lacks {words.count(rows)}" for shard, rows in merged.incomplete.items()]
        if len(lacking) > _MOST_NAMED:
            lacking[_MOST_NAMED:] = [f"{len(lacking) - _MOST_NAMED} more lack some"]
        which = f" ({', '.join(lacking)})" if lacking else ""
        yield (
            f"{words.count(merged.missing)} rows are missing{which}: run those again and merge again, or let the same "
            "command without --shard do them"
        )
