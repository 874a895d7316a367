"""The tables of a run's page: the best unit's line, operators, elites, the last population, new mutation prompts."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup
from msgspec import Struct

from shoal.evaluation.comparing.statistics import wilson
from shoal.evaluation.report.page import Cell, Column, render, table
from shoal.evaluation.report.texts import plain
from shoal.evolution.report.descent import line, lives
from shoal.evolution.report.parts import long_table, prompt
from shoal.evolution.report.reading import Run
from shoal.evolution.unit import Scored, Unit
from shoal.traces import words

_FITNESS = "share of questions, from 0 to 1"


class _Drawn(Struct, frozen=True):
    """A share and its interval, in per cent."""

    low: float
    high: float
    at: float
    sure: bool


def steps(run: Run) -> Markup:
    """The best unit's line: each ancestor with what made it, numbered as in the plot."""
    columns = [
        Column(""),
        Column("generation", True),
        Column("made by"),
        Column("fitness", True, f"{_FITNESS}, on average over the generations in which it stood"),
        Column("task prompts"),
    ]
    rows = [
        (f"{number}", f"{life.born}", made_by(life.unit), f"{life.mean:.3f}", prompt(*life.unit.task_prompts))
        for number, life in enumerate(line(lives(run.generations), run.best.unit), 1)
    ]
    return table(columns, rows, marked={len(rows) - 1})


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
    tried, better = sum(one.tried for one in found.values()), sum(one.better for one in found.values())
    shown = sorted(found.items(), key=lambda item: (-item[1].better / item[1].tried, item[0]))
    columns = [
        Column("operator"),
        Column("tried", True),
        Column("better", True, "the child's first fitness was above its parent's when that won"),
        Column("success", True),
        Column("left: 0 % · right: 100 %", False, "95 % interval; dotted: all operators together"),
        Column("fell back", True, "it had nothing to work with, and a simpler operator stood in"),
        Column("failed", True, "a call failed, and no child was born"),
    ]
    rows = []
    for name, one in shown:
        span = wilson(one.better / one.tried, one.tried)
        sure = not span.low <= better / tried <= span.high
        drawn = _Drawn(*(round(100 * share, 2) for share in (span.low, span.high, one.better / one.tried)), sure)
        bar = render("interval.html", drawn=drawn, zero=round(100 * better / tried, 2))
        figures = (words.count(one.tried), words.count(one.better), f"{one.better / one.tried:.0%}", bar)
        rows.append((words_of(name), *figures, words.count(one.fell_back), words.count(one.failed)))
    return table(columns, rows)


def elites(run: Run) -> Markup:
    """The best unit of each generation; its prompts where it was not the best before."""
    columns = [
        Column("generation"),
        Column("best", True, _FITNESS),
        Column("mean", True, _FITNESS),
        Column("unit"),
        Column("made by"),
        Column("task prompts"),
    ]
    return long_table(columns, list(_elites(run)))


def _elites(run: Run) -> Iterator[Sequence[Cell]]:
    before = None
    for generation in run.generations:
        best = generation.best
        again = best.unit.id == before
        before = best.unit.id
        shown = ("", "as before") if again else (made_by(best.unit), prompt(*best.unit.task_prompts))
        figures = (f"{best.fitness:.3f}", f"{generation.mean:.3f}")
        yield (f"{generation.number}", *figures, plain(best.unit.id, 20), *shown)


def population(run: Run) -> Markup:
    """The last population, the fittest first."""
    units = sorted(run.last.population, key=lambda scored: -scored.fitness)
    system = any(scored.unit.system_prompt for scored in units)
    variants = sorted({name for scored in units for name in scored.variants}) if units else []
    variants = variants if len(variants) > 1 else []
    columns = [
        Column("unit"),
        Column("fitness", True, _FITNESS),
        *(Column(plain(name, 20), True, "fitness of this way to ask") for name in variants),
        Column("made by"),
        *([Column("system prompt")] if system else []),
        Column("task prompts"),
        Column("mutation prompt"),
    ]
    return long_table(columns, [_member(scored, variants, system) for scored in units])


def _member(scored: Scored, variants: Sequence[str], system: bool) -> Sequence[Cell]:
    unit = scored.unit
    ways = [f"{scored.variants[name]:.3f}" if name in scored.variants else "–" for name in variants]
    around = [prompt(unit.system_prompt)] if system else []
    figures = (plain(unit.id, 20), f"{scored.fitness:.3f}", *ways, made_by(unit), *around)
    return (*figures, prompt(*unit.task_prompts), prompt(unit.mutation_prompt))


def mutation_prompts(run: Run) -> Markup:
    """The mutation prompts that hyper-mutation made, and how many units had each."""
    units = [life.unit for life in lives(run.generations).values()]
    held: dict[str, int] = {}
    for unit in units:
        held[unit.mutation_prompt] = held.get(unit.mutation_prompt, 0) + 1
    living = {scored.unit.mutation_prompt for scored in run.last.population}
    columns = [
        Column("generation"),
        Column("made by"),
        Column("units", True, "that had it, in the whole run"),
        Column("at the end", False, "whether a unit of the last population has it"),
        Column("mutation prompt"),
    ]
    rows = [
        (
            f"{unit.born}",
            made_by(unit),
            words.count(held[unit.mutation_prompt]),
            "yes" if unit.mutation_prompt in living else "no",
            prompt(unit.mutation_prompt),
        )
        for unit in run.new_mutation_prompts()
    ]
    return long_table(columns, rows)
