"""What `shoal evolve` shows people: a line for each generation, and what came of the run."""

import re
from shlex import quote
from types import TracebackType
from typing import Any

import click
import msgspec
from msgspec import structs

from shoal.evaluation.report.texts import upright
from shoal.evolution import Evolution, Result, Task
from shoal.evolution.generation import Generation
from shoal.evolution.ready import Ready
from shoal.evolution.statistics import GenerationStats
from shoal.traces import words

# What terminals act on and JSON does not escape: control characters, and what turns the direction of writing.
_ACTING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class EvolutionProgress:
    """A line on stderr for each generation. Use as a context manager around the run."""

    def __init__(self, evolution: Evolution, *, verbose: bool = False) -> None:
        self.evolution = evolution
        self.verbose = verbose

    def generation(self, generation: Generation, stats: GenerationStats) -> None:
        """Told of each generation when it is complete."""
        facts = [
            f"generation {stats.number} of {self.evolution.progress.generations}",
            f"best {stats.best:.3f}",
            f"mean {stats.mean:.3f}",
            f"{words.count(stats.calls)} calls",
            words.seconds(stats.seconds),
        ]
        if stats.failed:
            facts.append(f"{words.count(stats.failed)} questions failed")
        click.echo(", ".join(facts), err=True)
        if self.verbose:
            for prompt in (stats.best_unit.system_prompt, *stats.best_unit.task_prompts):
                click.echo(f"    {_shown(prompt)}", err=True)

    def __enter__(self) -> "EvolutionProgress":
        run = self.evolution.run
        size, batch, most = run.settings.population_size, run.batch, self.evolution.progress.rollouts
        asked = f"{size} units, {words.count(batch)} questions each" if most is None else f"at most {most} questions"
        facts = f"{asked}, {len(run.task.held_out)} rows held out"
        place = self.evolution.options.get("run_dir")
        click.echo(_shown(f"{run.task.name}: {facts}; in {place}"), err=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def result_facts(result: Result, ready: Ready) -> dict[str, Any]:
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
    }


def print_result(result: Result, ready: Ready, task: Task, model: str) -> None:
    """The best prompt, whether it is better, and how to use it."""
    unit = result.best.unit
    click.echo(f"\nbest of {len(result.history)} generations, fitness {result.best.fitness:.3f}:", err=True)
    if unit.system_prompt:
        click.echo(f"system: {_shown(unit.system_prompt)}", err=True)
    for prompt in unit.task_prompts:
        click.echo(f"prompt: {_shown(prompt)}", err=True)
    if result.comparison is not None:
        click.echo(result.comparison.verdict, err=True)
    usage = result.usage
    click.echo(f"{words.count(usage.calls)} calls, {words.count(usage.total_tokens)} tokens", err=True)
    preset = "".join(char if char.isascii() and char.isalnum() else "_" for char in task.name)
    system = ready.system.read_text("utf-8").rstrip("\n")
    click.echo(
        f"""
as it was measured:
    shoal run DATA --program {quote(str(ready.template))} -m {quote(model)}
as a system message:
    shoal run DATA -p {quote(_shown(task.question.text))} --system-file {quote(str(ready.system))} -m {quote(model)}
for `shoal serve`, in shoal.toml:
    [presets.{preset}]
    model = {toml(model)}
    system = {toml(system)}""",
        err=True,
    )


def toml(text: str) -> str:
    """A text as a basic string of TOML, whose escapes are those of JSON; no terminal acts on what is in it."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", msgspec.json.encode(text).decode())


def _shown(text: str) -> str:
    """A text of a model's, or of a folder of somebody's, on a terminal."""
    return words.visible(upright(text))
