"""What the command line shows people of a comparison: how far it is, its table, and what it says in words."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from shoal.cli.show import errors, rows_bar, under_way
from shoal.evaluation.comparing.comparing import Comparing
from shoal.evaluation.comparing.result import CHANCE, Arm, Comparison, Difference
from shoal.evaluation.comparing.wording import significance
from shoal.traces import words

_NAME = 44
_MANY = 200  # rows from which on tenths of a percent mean something


class CompareProgress:
    """A line an arm on stderr: rows done, calls, failures. Until the arms begin, that sizes are looked for.

    Where calls travel by a batch API, also how the waves stand that all arms share.
    """

    def __init__(self, comparing: Comparing) -> None:
        self.comparing = comparing
        self.bar = rows_bar(self._renderables)
        comparing.work.on_start = self._begin

    def _begin(self) -> None:
        for arm in self.comparing.work.arms:
            self.bar.add_task(words.short(arm.name, _NAME), total=arm.batch.rows.count, facts="")

    def _renderables(self) -> Any:
        """Called at each refresh: the figures are read when they are shown."""
        if any(base.waves for base in self.comparing.models):
            yield Text(under_way(self.comparing.models), style="dim")
        if not self.bar.tasks:
            yield Text("choosing sizes on a few rows", style="dim")
            return
        for task, arm in zip(self.bar.tasks, self.comparing.work.arms, strict=False):  # a refresh may come between two
            progress, usage = arm.batch.progress, arm.batch.progress.usage
            task.completed = progress.resumed + progress.finished
            cached = f" + {words.count(usage.cached_calls)} shared" if usage.cached_calls else ""
            failed = f" · {progress.failed} failed" if progress.failed else ""
            task.fields["facts"] = f"{words.count(usage.calls)} calls{cached}{failed}"
        yield self.bar.make_tasks_table(self.bar.tasks)

    def __enter__(self) -> "CompareProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def print_comparison(comparison: Comparison, report: Path) -> None:
    """The table, what is significant in it, what must be known of it, and where the report lies."""
    errors.print(_table(comparison))
    errors.print(Text("◆ no other is as good for as few tokens. Calls, tokens, s, $ are a row's, alone.", style="dim"))
    errors.print()
    errors.print(Text(significance(comparison)))
    for note in comparison.notes:
        if not note.startswith("shoal "):  # the command itself is for the report
            errors.print(Text(f"note: {words.visible(note)}", style="dim"))
    errors.print(Text(f"report  {report}"))


def _table(comparison: Comparison) -> Table:
    """A line an arm; calls, tokens, seconds and dollars are those of a row. What is known of no arm has no column."""
    first = comparison.arms[0]
    against = {each.b: each for each in comparison.differences if each.a == first.name}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=14)
    headings = [comparison.metric, f"to {words.short(first.name, 12)}", "p", "calls", "tokens", "s", "$"]
    rows = [_cells(comparison, arm, first, against.get(arm.name)) for arm in comparison.arms]
    used = [i for i in range(len(headings)) if any(row[i + 1].plain not in ("", "0") for row in rows)]
    for i in used:
        table.add_column(headings[i], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row[0], *(row[i + 1] for i in used))
    return table


def _cells(comparison: Comparison, arm: Arm, first: Arm, difference: Difference | None) -> list[Text]:
    """Name and whether it is on the frontier, figure, difference, its p, calls, tokens, seconds, dollars."""
    ratio = f" ×{arm.tokens / first.tokens:.2g}" if first.tokens and arm is not first else ""
    p = None if difference is None else difference.adjusted
    return [
        Text("◆\N{NO-BREAK SPACE}" if arm.frontier else "\N{NO-BREAK SPACE}" * 2, style="green")
        + Text(words.short(arm.name, _NAME)),
        Text(_figure(comparison, arm)),
        Text("" if difference is None else _change(comparison, difference)),
        Text(_p(p), style="bold" if p is not None and p < CHANCE else "dim"),
        Text(f"{arm.calls / arm.costed:,.3g}"),
        Text(f"{arm.tokens / arm.costed:,.0f}{ratio}"),
        Text("" if arm.seconds is None else f"{arm.seconds:.1f}"),
        Text("" if arm.dollars is None else f"{arm.dollars / arm.costed:.2g}"),
    ]


def _figure(comparison: Comparison, arm: Arm) -> str:
    if comparison.metric == "accuracy":
        digits = 0 if comparison.rows < _MANY else 1
        return f"{100 * arm.value:.{digits}f}% ({100 * arm.interval.low:.0f}–{100 * arm.interval.high:.0f})"
    return f"{arm.value:.3f} ({arm.interval.low:.2f}–{arm.interval.high:.2f})"


def _change(comparison: Comparison, difference: Difference) -> str:
    """In points: hundredths of the metric."""
    low, high = difference.interval.low, difference.interval.high
    digits = 0 if comparison.rows < _MANY else 1
    return f"{100 * difference.value:+.{digits}f} ({100 * low:+.0f}…{100 * high:+.0f})"


def _p(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
