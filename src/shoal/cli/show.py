"""What the command line shows people: the call tree, progress, a run's table."""

from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from shoal.batch.records import Record
from shoal.batch.runner import BatchRun, Summary
from shoal.errors import ShoalError
from shoal.runtime.trace import Span
from shoal.techniques.opening import bases

errors = Console(stderr=True, highlight=False)


def _short(text: object, width: int) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.1f} M"


def _plural(number: int, noun: str) -> str:
    return f"{_count(number)} {noun}" if number == 1 else f"{_count(number)} {noun}s"


# The call tree


def print_trace(root: Span) -> None:
    """The tree of calls on stderr; the calls of the critical path are marked."""
    path = root.critical_path()
    on_path = {id(span) for span in path}
    tree = Tree(Text("trace", style="bold"), guide_style="dim")
    for child in root.children:
        _branch(tree, child, on_path)
    errors.print(tree)
    usage = root.usage
    errors.print(
        f"{_plural(usage.calls, 'call')} ({usage.cached_calls} cached), {_count(usage.prompt_tokens)} prompt + "
        f"{_count(usage.completion_tokens)} completion tokens, {_seconds(root.seconds)}; "
        f"critical path [red]●[/red] {_plural(len(path), 'call')}, "
        f"{_seconds(sum(span.seconds for span in path))}",
        soft_wrap=True,
    )


def _branch(tree: Tree, span: Span, on_path: set[int]) -> None:
    line = Text(no_wrap=True, overflow="ellipsis")
    if id(span) in on_path:
        line.append("● ", style="red")
    line.append(span.name, style="bold cyan" if span.kind == "technique" else "bold")
    if span.request is not None and span.request.sample:
        line.append(f" #{'.'.join(map(str, span.request.sample))}", style="dim")
    usage = span.usage
    calls = f"{_plural(usage.calls + usage.cached_calls, 'call')}, " if span.kind == "technique" else ""
    line.append(f"  {calls}{usage.prompt_tokens}+{usage.completion_tokens} tokens, {_seconds(span.seconds)}", "dim")
    if usage.cached_calls and not usage.calls:
        line.append("  cached", style="green")
    if span.error is not None:
        line.append(f"  {type(span.error).__name__}: {_short(span.error, 80)}", style="red")
    elif span.completion is not None:
        line.append(f"  {_short(span.completion.text, 60)}", style="italic")
    node = tree.add(line)
    for child in span.children:
        _branch(node, child, on_path)


# A run


class RunProgress:
    """A line on stderr that follows a run: rows, calls, tokens a second, cache hits, in flight, time left, failures."""

    def __init__(self, run: BatchRun, model: object) -> None:
        self.run = run
        self.bases = list(bases(model))
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=errors,
            transient=True,
            refresh_per_second=4,
            get_time=None,
        )
        self.bar.get_renderables = self._renderables  # type: ignore[method-assign]
        self.task: TaskID = self.bar.add_task("rows", total=run.rows.count, facts="")

    def _renderables(self) -> Any:
        """Called at each refresh: the figures are read when they are shown, not when they change."""
        progress = self.run.progress
        self.bar.tasks[0].completed = progress.resumed + progress.finished
        self.bar.tasks[0].fields["facts"] = self._facts()
        yield self.bar.make_tasks_table(self.bar.tasks)

    def _facts(self) -> str:
        progress, usage = self.run.progress, self.run.progress.usage
        seconds = max(progress.seconds, 1e-3) if progress.started else 1e-3
        facts = [
            f"{_count(usage.calls)} calls",
            f"{_count(usage.completion_tokens / seconds)} tokens/s",
            f"{sum(base.scheduler.in_flight for base in self.bases)} in flight",
        ]
        if usage.cached_calls:
            facts.append(f"{_count(usage.cached_calls)} cached")
        left = progress.total - progress.resumed - progress.finished
        if progress.finished and left:
            facts.append(f"{_seconds(left * seconds / progress.finished)} left")
        if progress.failed:
            facts.append(f"{progress.failed} failed")
        return " · ".join(facts)

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def print_run(run: BatchRun, summary: Summary, output: str, target: str | None) -> None:
    """The first answers, then the run in numbers and where its output lies."""
    answers = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("row", "input", "answer", *(["expected", ""] if target else [])):
        answers.add_column(heading, overflow="ellipsis", no_wrap=True)
    for number, (_, line) in zip(range(8), run.directory.journal.records(), strict=False):
        record = msgspec.json.decode(line, type=Record)
        answers.add_row(str(number), _short(_first_text(record, target), 56), *_outcome(record, target))
    errors.print(answers)
    if summary.rows > 8:
        errors.print(f"… and {_count(summary.rows - 8)} more rows", style="dim")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in _facts(run, summary, output):
        facts.add_row(name, value)
    errors.print()
    errors.print(facts)


def _first_text(record: Record, target: str | None) -> object:
    texts = [v for k, v in record.input.items() if k not in ("id", target) and isinstance(v, str)]
    return max(texts, key=len) if texts else record.input


def _outcome(record: Record, target: str | None) -> list[Text]:
    if record.error is not None:
        shown = Text(f"{record.error.type}: {_short(record.error.message, 48)}", style="red")
    else:
        shown = Text(_short(_said(record), 32))
    if target is None:
        return [shown]
    mark = Text("✓", "green") if record.score == 1.0 else Text("✗", "red")
    return [shown, Text(_short(record.input.get(target, ""), 24)), mark]


def _said(record: Record) -> str | None:
    """The short answer, or else the output."""
    if record.answer is not None or record.output is None:
        return record.answer
    return record.output if isinstance(record.output, str) else msgspec.json.encode(record.output).decode()


def _facts(run: BatchRun, summary: Summary, output: str) -> list[tuple[str, str]]:
    facts = [("rows", f"{_count(summary.finished)} of {_count(summary.rows)}")]
    if summary.failed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in run.errors.most_common(3))
        facts.append(("failed", f"[red]{_count(summary.failed)}[/red] ({kinds})"))
    if summary.score is not None:
        facts.append(("accuracy", f"{summary.score:.1%} of {_count(summary.scored)}"))
    cached = f" + {_count(summary.cached_calls)} cached" if summary.cached_calls else ""
    facts += [
        ("calls", f"{_count(summary.calls)}{cached}"),
        ("tokens", f"{_count(summary.prompt_tokens)} prompt + {_count(summary.completion_tokens)} completion"),
        ("seconds", _rate(run, summary)),
        ("output", output),
    ]
    return facts


def _rate(run: BatchRun, summary: Summary) -> str:
    usage = run.progress.usage
    rate = usage.completion_tokens / summary.seconds if summary.seconds > 0 else 0.0
    return f"{_seconds(summary.seconds)} ({_count(rate)} tokens/s)"


def say(message: str) -> None:
    """A line for people, on stderr."""
    errors.print(message, markup=False)


def complaint(error: ShoalError) -> str:
    return f"{type(error).__name__}: {error}"
