"""What the command line shows people of a run: its progress, its table."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from shoal.backends import BaseModel
from shoal.batch.allocation import Allocated, Allocation
from shoal.batch.records import Record
from shoal.batch.runner import BatchRun, Summary
from shoal.cli.allocating import told
from shoal.runtime.types import Usage
from shoal.techniques.opening import bases
from shoal.traces import words

errors = Console(stderr=True, highlight=False)


# A run


def rows_bar(renderables: Callable[[], Iterable[Any]]) -> Progress:
    """Lines of rows done with `facts` beside them, on stderr. `renderables` is called at each refresh."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", style="dim"),
        console=errors,
        transient=True,
        refresh_per_second=4,
        get_time=None,
    )
    bar.get_renderables = renderables  # type: ignore[method-assign]
    return bar


class RunProgress:
    """A line on stderr that follows a run: rows, calls, tokens a second, cache hits, in flight, time left, failures."""

    def __init__(self, run: BatchRun, model: object) -> None:
        self.run = run
        self.bases = list(bases(model))
        self.bar = rows_bar(self._renderables)
        self.task: TaskID = self.bar.add_task("rows", total=run.rows.own, facts="")

    def _renderables(self) -> Any:
        """Called at each refresh: the figures are read when they are shown, not when they change."""
        progress = self.run.progress
        self.bar.tasks[0].completed = progress.resumed + progress.finished
        self.bar.tasks[0].fields["facts"] = self._facts()
        yield self.bar.make_tasks_table(self.bar.tasks)

    def _facts(self) -> str:
        if self.run.allocation is not None:
            return self._shared_out(self.run.allocation)
        progress, usage = self.run.progress, self.run.progress.usage
        seconds = max(progress.seconds, 1e-3) if progress.started else 1e-3
        facts = [
            f"{words.count(usage.calls)} calls",
            f"{words.count(usage.completion_tokens / seconds)} tokens/s",
            under_way(self.bases),
        ]
        if usage.cached_calls:
            facts.append(f"{words.count(usage.cached_calls)} cached")
        left = progress.total - progress.resumed - progress.finished
        if progress.finished and left:
            facts.append(f"{words.seconds(left * seconds / progress.finished)} left")
        if progress.failed:
            facts.append(f"{progress.failed} failed")
        return " · ".join(facts)

    def _shared_out(self, allocation: Allocation) -> str:
        """The same where rows end together, most of them in the last rounds: what is spent says how far it is."""
        calls, failed = self.run.limit.spent.calls, self.run.progress.failed
        facts = [f"{words.count(calls)} calls", under_way(self.bases), f"round {allocation.rounds}"]
        facts.append(f"{allocation.part_spent:.0%} of the budget shared out")
        return " · ".join([*facts, *([f"{failed} failed"] if failed else [])])

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def under_way(models: Iterable[BaseModel]) -> str:
    """Calls in flight; where they travel by a batch API, how their waves stand."""
    models = list(models)
    schedulers = dict.fromkeys(base.waves for base in models if base.waves is not None)
    waves = [words.short(scheduler.standing(), 100) for scheduler in schedulers]
    flying = sum(base.scheduler.in_flight for base in models if base.waves is None)
    return " · ".join([*waves, *([f"{flying} in flight"] if flying or not waves else [])])


def print_run(
    records: Iterable[tuple[int, bytes]],
    summary: Summary,
    output: str,
    target: str | None,
    metric: tuple[str, float] | None = None,
    *,
    failures: Counter[str],
    seconds: str,
    allocated: Allocated | None = None,
) -> None:
    """The first answers, then the run in numbers and where its output lies."""
    answers = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("row", "input", "answer", *(["expected"] if target else []), *([""] if metric else [])):
        answers.add_column(heading, overflow="ellipsis", no_wrap=True)
    for _, (number, line) in zip(range(8), records, strict=False):
        record = msgspec.json.decode(line, type=Record)
        answers.add_row(
            str(number), words.short(_first_text(record, target), 56), *_outcome(record, target, metric is not None)
        )
    errors.print(answers)
    if (more := summary.finished + summary.failed - 8) > 0:
        errors.print(f"… and {words.count(more)} more rows", style="dim")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in [*_facts(summary, metric, failures), *_ends(seconds, output, allocated)]:
        facts.add_row(name, value)
    errors.print()
    errors.print(facts)


def _first_text(record: Record, target: str | None) -> object:
    texts = [v for k, v in record.input.items() if k not in ("id", target) and isinstance(v, str)]
    return max(texts, key=len) if texts else record.input


def _outcome(record: Record, target: str | None, scored: bool) -> list[Text]:
    if record.error is not None:
        shown = Text(f"{record.error.type}: {words.short(record.error.message, 48)}", style="red")
    else:
        shown = Text(words.short(words.said(record.answer, record.output), 32))
    expected = [Text(words.short(record.input.get(target, ""), 24))] if target else []
    return [shown, *expected, *([_mark(record)] if scored else [])]


def _mark(record: Record) -> Text:
    if record.score is UNSET:
        return Text("✗" if record.error is not None else "?", "red")
    return Text(
        {1.0: "✓", 0.0: "✗"}.get(record.score, f"{record.score:.2f}"), "green" if record.score == 1.0 else "red"
    )


def _facts(summary: Summary, metric: tuple[str, float] | None, failures: Counter[str]) -> list[tuple[str, str]]:
    facts = [("rows", f"{words.count(summary.finished)} of {words.count(summary.rows)}")]
    if summary.failed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in failures.most_common(3))
        facts.append(("failed", f"[red]{words.count(summary.failed)}[/red] ({kinds})"))
    if metric is not None:
        name, value = metric
        facts.append((name, f"{value:.1%} of {words.count(summary.scored)}"))
    cached = f" + {words.count(summary.cached_calls)} cached" if summary.cached_calls else ""
    facts += [
        ("calls", f"{words.count(summary.calls)}{cached}"),
        (
            "tokens",
            f"{words.count(summary.prompt_tokens)} prompt + {words.count(summary.completion_tokens)} completion",
        ),
        *([("dollars", words.dollars(summary.dollars))] if summary.dollars else []),
    ]
    return facts


def _ends(seconds: str, output: str, allocated: Allocated | None) -> list[tuple[str, str]]:
    return [*([("allocated", told(allocated))] if allocated else []), ("seconds", seconds), ("output", output)]


def rate_of(summary: Summary, usage: Usage) -> str:
    """How long a run took, and how fast it was where `usage` is of that time."""
    rate = usage.completion_tokens / summary.seconds if summary.seconds > 0 else 0.0
    return f"{words.seconds(summary.seconds)} ({words.count(rate)} tokens/s)"


def say(message: str) -> None:
    """A line for people, on stderr."""
    errors.print(message, markup=False)
