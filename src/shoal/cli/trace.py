"""`shoal trace`: what the rows of a run did, call by call."""

import heapq
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shoal.batch.directory import atomic_writer
from shoal.batch.runner import Summary
from shoal.batch.traced import TracedRow, TracedRun
from shoal.cli.tree import print_trace
from shoal.errors import UsageError
from shoal.traces import data, words
from shoal.traces.html import RowPart, run_html, trace_html

_MOST_LISTED = 40
_MOST_EMBEDDED = 100


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("row", metavar="[ID]", required=False)
@click.option("--html", metavar="FILE", help="Write a page for a browser; - for standard output.")
@click.option("--json", "as_json", is_flag=True, help="Print the trees as JSON Lines.")
def trace(run: Path, row: str | None, html: str | None, as_json: bool) -> None:
    """Show what the rows of the run directory RUN did, or all that the row ID did (#N: row number N, from 0).

    The run must have been made with --trace.
    """
    if html and as_json:
        raise UsageError("give --html or --json, not both")
    with TracedRun(run) as kept:
        if as_json:
            for found in [kept.row(row)] if row is not None else kept.rows():
                if found.trace is not None:
                    sys.stdout.buffer.write(data.encode(found.trace) + b"\n")
        elif html:
            write_page(html, _row_page(kept.row(row)) if row is not None else _run_page(kept))
        elif row is not None:
            found = kept.row(row)
            assert found.trace is not None
            print_trace(found.trace, whole=True, console=Console(highlight=False))
        else:
            _print_rows(kept)


def write_page(file: str, page: str) -> None:
    """A page in FILE, whole or not at all, or on standard output."""
    content = page.encode("utf-8", "backslashreplace")
    if file == "-":
        sys.stdout.buffer.write(content)
        return
    with atomic_writer(Path(file)) as out:
        out.write(content)
    click.echo(f"wrote {file}", err=True)


def _row_page(row: TracedRow) -> str:
    assert row.trace is not None
    return trace_html(row.trace, title=_title(row), answer=row.record.answer)


def _title(row: TracedRow) -> str:
    return f"{row.record.technique}@{row.record.model}" if row.record.technique else row.record.model


def _run_page(run: TracedRun) -> str:
    """The failed and the slowest rows, as many as a browser bears."""
    rows, summary = _telling(run, _MOST_EMBEDDED)
    parts = [RowPart(str(row.number), row.id, row.trace, row.record.answer, row.record.error) for row in rows]
    total, note = summary.finished + summary.failed, ""
    if total > len(rows):
        note = (
            f"This page holds {len(rows)} of {words.count(total)} rows: failed ones first, then the slowest. "
            f"For any other: shoal trace {run.path} ID --html FILE"
        )
    title = _title(rows[0]) if rows else str(run.path)
    return run_html(parts, title=title, facts=_facts(summary), note=note)


def _facts(summary: Summary) -> Iterator[tuple[str, str, str]]:
    failed = f"{words.count(summary.failed)} failed" if summary.failed else "none failed"
    cached = f"{words.count(summary.cached_calls)} from the cache, for nothing" if summary.cached_calls else ""
    yield "rows", words.count(summary.finished + summary.failed), failed
    if summary.score is not None:
        yield "score", f"{summary.score:.1%}", f"of {words.count(summary.scored)} rows"
    yield "questions to the model", words.count(summary.calls + summary.cached_calls), cached
    yield "tokens read", words.count(summary.prompt_tokens), "prompts"
    yield "tokens written", words.count(summary.completion_tokens), "outputs"


def _telling(run: TracedRun, most: int) -> tuple[list[TracedRow], Summary]:
    """The rows that tell most, in order, and the sum of all; a run of any size passes through in bounded memory."""
    summary = Summary(rows=0)

    def summed() -> Iterator[TracedRow]:
        for row in run.rows():
            summary.add(row.record)
            yield row

    return sorted(heapq.nlargest(most, summed(), key=_interest), key=lambda row: row.number), summary


def _interest(row: TracedRow) -> tuple[bool, float, int]:
    """Failed rows first, then slow ones, then early ones."""
    return row.record.error is not None, row.seconds, -row.number


def _print_rows(run: TracedRun) -> None:
    rows, summary = _telling(run, _MOST_LISTED)
    total = summary.finished + summary.failed
    slowest = max(rows, key=lambda row: row.seconds, default=None)
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    table.add_column("id", overflow="ellipsis", no_wrap=True, max_width=24)
    for heading in ("calls", "cached", "tokens", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("answer or error", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows:
        table.add_row(*_cells(row, slow=row is slowest and len(rows) > 1))
    console = Console(highlight=False)
    console.print(table)
    if total > len(rows):
        console.print(f"the failed and the slowest of {words.count(total)} rows; {words.count(summary.failed)} failed")
    if not total:
        console.print("no row is finished yet")
    console.print(f"one row: shoal trace {run.path} ID", style="dim", markup=False, soft_wrap=True)


def _cells(row: TracedRow, *, slow: bool) -> Iterator[str | Text]:
    usage, record = row.record.usage, row.record
    yield Text(words.short(row.id, 40))
    yield words.count(usage.calls + usage.cached_calls)
    yield words.count(usage.cached_calls) if usage.cached_calls else ""
    yield words.count(usage.prompt_tokens + usage.completion_tokens)
    yield Text(f"{'slowest ' * slow}{row.seconds:.2f}" if row.trace else "no trace", "yellow bold" if slow else "")
    if record.error is not None:
        yield Text(words.short(words.failure(record.error), 100), "red")
    else:
        yield Text(words.short(words.said(record.answer, record.output), 60))
