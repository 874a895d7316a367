"""What the command line says of a run of evolution: whether the prompts are better, which they are, how to use them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import click
from msgspec import structs
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shoal.cli import show
from shoal.cli.evolving import operators_table
from shoal.evaluation.report.texts import plain, upright
from shoal.evolution import Result, Task
from shoal.evolution.ready import Ready
from shoal.evolution.statistics import of_all
from shoal.traces import words

_ENDS = {
    "generations": "all generations are complete",
    "plateau": "the mean fitness did not rise any more",
    "target": "a unit reached the fitness that was asked for",
    "rollouts": "what is left of the rollouts is not enough for another",
    "budget": "the budget is spent",
    "interrupted": "it was interrupted",
}


def print_result(result: Result, seed: str, report: Sequence[Path] = (), *, console: Console | None = None) -> None:
    """The verdict, the prompts whole, the operators, and the run in numbers, on stderr.

    `seed` is the seed prompt, `report` the files of the report, its page first.
    """
    console = show.errors if console is None else console
    console.print()
    if result.comparison is not None:
        said = plain(result.comparison.verdict, 500)
        style = "bold green" if result.comparison.improves else "bold"
        console.print(Text(f"{said[:1].upper()}{said[1:]}.", style))
    for heading, prompt in _prompts(result, seed):
        console.print(Text(heading, "dim"))
        console.print(Padding(Text(words.visible(upright(prompt))), (0, 0, 0, 4)))
    console.print()
    operators = of_all(result.stats)
    if operators:
        console.print(operators_table(operators, console.width))
        console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, said in _facts(result):
        facts.add_row(name, Text(said))
    if report:
        facts.add_row("report", Text(words.visible(str(report[0]))))
    console.print(facts)


def _prompts(result: Result, seed: str) -> Iterator[tuple[str, str]]:
    unit = result.best.unit
    yield "seed prompt", seed
    if unit.system_prompt:
        yield "best system prompt", unit.system_prompt
    many = len(unit.task_prompts)
    for number, prompt in enumerate(unit.task_prompts, 1):
        yield ("best prompt" if many == 1 else f"best prompt, {number} of {many}"), prompt


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    best, first, last = result.best, result.history[0], result.history[-1]
    asked = f" on {words.plural(best.questions, 'question')}" if best.questions else ""
    yield "best fitness", f"{best.fitness:.3f}{asked}; unit {best.unit.id}"
    yield "mean fitness", f"{first.mean:.3f} in generation 0, {last.mean:.3f} in generation {last.number}"
    if (found := result.comparison) is not None:
        interval = f"95 % interval {found.low:+.3f} to {found.high:+.3f}"
        yield "held out", f"{found.metric} seed {found.seed:.3f}, best {found.best:.3f}, {interval}"
        yield "", f"better on {found.wins}, worse on {found.losses}, the same on {found.ties} of {found.rows} rows"
        if found.failed:
            yield "", f"{words.plural(found.failed, 'row')} left out: a call failed"
    usage = result.usage
    cached = f" + {words.count(usage.cached_calls)} cached" if usage.cached_calls else ""
    yield "calls", f"{words.count(usage.calls)}{cached}"
    yield "tokens", f"{words.count(usage.prompt_tokens)} prompt + {words.count(usage.completion_tokens)} completion"
    yield "seconds", f"{words.seconds(sum(one.seconds for one in result.stats))} for the generations"
    yield "ended", f"after generation {last.number}: {_ENDS.get(result.ended, result.ended)}"
    if result.run_dir is not None:
        yield "files", words.visible(str(result.run_dir))


def print_use(ready: Ready, task: Task, model: str) -> None:
    """What to type to use the best prompt, on stderr."""
    preset = "".join(char if char.isascii() and char.isalnum() else "_" for char in task.name)
    system = ready.system.read_text("utf-8").rstrip("\n")
    question = words.visible(upright(task.question.text))
    click.echo(
        f"""
as it was measured:
    shoal run DATA --program {quote(str(ready.template))} -m {quote(model)}
as a system message:
    shoal run DATA -p {quote(question)} --system-file {quote(str(ready.system))} -m {quote(model)}
for `shoal serve`, in shoal.toml:
    [presets.{preset}]
    model = {toml(model)}
    system = {toml(system)}""",
        err=True,
    )


def toml(text: str) -> str:
    """A text as a basic string of TOML, in which no character acts on a terminal."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in '\\"':
        return f"\\{char}"
    if char.isprintable():
        return char
    return "\\n" if char == "\n" else f"\\U{ord(char):08x}"


def result_facts(result: Result, ready: Ready, report: Sequence[Path] = ()) -> dict[str, Any]:
    """What came of a run, as plain data."""
    comparison = result.comparison
    return {
        "ended": result.ended,
        "generations": result.history[-1].number,
        "fitness": result.best.fitness,
        "system_prompt": result.best.unit.system_prompt,
        "task_prompts": result.best.unit.task_prompts,
        "mutation_prompt": result.best.unit.mutation_prompt,
        "comparison": None if comparison is None else structs.asdict(comparison) | {"improves": comparison.improves},
        "rollouts": result.rollouts,
        "calls": result.usage.calls,
        "tokens": result.usage.total_tokens,
        "run_dir": str(result.run_dir),
        "system_file": str(ready.system),
        "program": str(ready.template),
        "report": str(report[0]) if report else None,
    }
