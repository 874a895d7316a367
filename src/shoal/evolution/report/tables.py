"""The tables of a run's page: the best unit's line, operators, elites, the last population, new mutation prompts."""

from collections import Counter
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from shoal.evaluation.comparing.statistics import wilson
from shoal.evaluation.report.page import Cell, Column, interval, table
from shoal.evaluation.report.texts import plain
from shoal.evolution.report.descent import line, lives
from shoal.evolution.report.parts import long_table, prompt
from shoal.evolution.report.reading import Run
from shoal.evolution.statistics import OperatorStats
from shoal.evolution.unit import Scored, Unit
from shoal.traces import words

_FITNESS = "share of questions, from 0 to 1"


def steps(run: Run) -> Markup:
    """The best unit's line: each ancestor with what made it, numbered as in the plot."""
    columns = [
        Column("step"),
        Column("fitness", True, f"{_FITNESS}, on average over the generations in which it stood"),
        Column("task prompts"),
        Column("made by"),
        Column("generation", True, "in which it was born"),
    ]
    rows = [
        (f"{number}", f"{life.mean:.3f}", prompt(*life.unit.task_prompts), made_by(life.unit), f"{life.born}")
        for number, life in enumerate(line(lives(run.generations), run.best.unit), 1)
    ]
    return long_table(columns, rows, marked={len(rows) - 1})


def made_by(unit: Unit) -> str:
    """The operator in words, and what stood in for it or was mixed in."""
    said = words_of(unit.operator)
    said += f", as {words_of(unit.fallback)}" if unit.fallback else ""
    return f"{said}, crossed with {plain(unit.crossed, 20)}" if unit.crossed else said


def words_of(operator: str) -> str:
    return plain(operator.replace("_", " "), 40)


def operators(run: Run) -> Markup:
    """How often each operator's children were better than their parents, the most successful first."""
    found = run.operators()
    overall = sum(one.better for one in found.values()) / sum(one.tried for one in found.values())
    columns = [
        Column("operator"),
        Column("success", True),
        Column("left: 0 % · right: 100 %", False, "95 % interval; dotted: all operators together"),
        Column("tried", True),
        Column("better", True, "the child's first fitness was above its parent's when that won"),
        Column("fell back", True, "it had nothing to work with, and a simpler operator stood in"),
        Column("failed", True, "a call failed, and no child was born"),
    ]
    shown = sorted(found.items(), key=lambda item: (-item[1].better / item[1].tried, item[0]))
    return table(columns, [_operator(name, one, overall) for name, one in shown])


def _operator(name: str, one: OperatorStats, overall: float) -> Sequence[Cell]:
    rate, span = one.better / one.tried, wilson(one.better / one.tried, one.tried)
    sure = not span.low - 1e-9 <= overall <= span.high + 1e-9
    bar = interval(100 * span.low, 100 * span.high, 100 * rate, 100 * overall, sure=sure)
    figures = (one.tried, one.better, one.fell_back, one.failed)
    return (words_of(name), f"{rate:.0%}", bar, *map(words.count, figures))


def elites(run: Run) -> Markup:
    """The best unit of each generation; its prompts where it was not the best before."""
    columns = [
        Column("generation"),
        Column("best", True, _FITNESS),
        Column("task prompts"),
        Column("made by"),
        Column("unit", True, "the generation in which it was born, and its place there"),
        Column("mean", True, "of the whole generation"),
    ]
    return long_table(columns, list(_elites(run)))


def _elites(run: Run) -> Iterator[Sequence[Cell]]:
    before = None
    for generation in run.generations:
        best = generation.best
        again = best.unit.id == before
        before = best.unit.id
        shown = ("as before", "") if again else (prompt(*best.unit.task_prompts), made_by(best.unit))
        figures = (plain(best.unit.id, 20), f"{generation.mean:.3f}")
        yield (f"{generation.number}", f"{best.fitness:.3f}", *shown, *figures)


def population(run: Run) -> Markup:
    """The last population, the fittest first."""
    units = sorted(run.last.population, key=lambda scored: -scored.fitness)
    system = any(scored.unit.system_prompt for scored in units)
    variants = sorted({name for scored in units for name in scored.variants})
    variants = variants if len(variants) > 1 else []
    columns = [
        Column("unit"),
        Column("fitness", True, _FITNESS),
        Column("task prompts"),
        *([Column("system prompt")] if system else []),
        Column("mutation prompt"),
        Column("made by"),
        *(Column(plain(name, 20), True, "fitness of this way to ask") for name in variants),
    ]
    return long_table(columns, [_member(scored, variants, system) for scored in units])


def _member(scored: Scored, variants: Sequence[str], system: bool) -> Sequence[Cell]:
    unit = scored.unit
    ways = [f"{scored.variants[name]:.3f}" if name in scored.variants else "–" for name in variants]
    prompts = (unit.task_prompts, *([(unit.system_prompt,)] if system else []), (unit.mutation_prompt,))
    cells = (plain(unit.id, 20), f"{scored.fitness:.3f}", *(prompt(*texts) for texts in prompts))
    return (*cells, made_by(unit), *ways)


def mutation_prompts(run: Run) -> Markup:
    """The mutation prompts that hyper-mutation made, and how many units had each."""
    held = Counter(life.unit.mutation_prompt for life in lives(run.generations).values())
    living = {scored.unit.mutation_prompt for scored in run.last.population}
    columns = [
        Column("generation"),
        Column("mutation prompt"),
        Column("made by"),
        Column("units", True, "that had it, in the whole run"),
        Column("at the end", False, "whether a unit of the last population has it"),
    ]
    rows = [
        (
            f"{unit.born}",
            prompt(unit.mutation_prompt),
            made_by(unit),
            words.count(held[unit.mutation_prompt]),
            "yes" if unit.mutation_prompt in living else "no",
        )
        for unit in run.new_mutation_prompts()
    ]
    return long_table(columns, rows)
