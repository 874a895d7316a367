"""The page of a run: the answer first, then the prompts, the plots, the tables, and how it was done."""

from collections.abc import Callable, Iterator

from markupsafe import Markup

from shoal.evaluation.report import plotting
from shoal.evaluation.report.page import Section, facts, page, plots
from shoal.evaluation.report.texts import plain
from shoal.evolution.report import figures, parts, tables
from shoal.evolution.report.lineage import lineage
from shoal.evolution.report.reading import Run
from shoal.evolution.report.verdict import verdict
from shoal.traces import words

_NONE: tuple[object, ...] = (None, False, [""])  # settings that say nothing


def document(run: Run) -> str:
    """The whole page, in one file that refers to no other. Raises UsageError where matplotlib is not installed."""
    sections = (_prompts, _fitness, _lineage, _operators, _diversity, _units, _measured)
    shown = [section for make in sections for section in make(run)]
    name = plain(run.about("task").get("name") or "A run of evolution", 120)
    return page(name, "Prompts bred for a task", shown, verdict(run))


def _prompts(run: Run) -> Iterator[Section]:
    unit = run.best.unit
    many = f"the best prompts, applied one after another, fitness {run.best.fitness:.3f}"
    one = f"the best prompt, fitness {run.best.fitness:.3f}"
    shown = [("the seed prompt", [run.seed_prompt], False)] if run.seed_prompt else []
    shown += [("the best system prompt", [unit.system_prompt], False)] if unit.system_prompt else []
    shown += [(many if len(unit.task_prompts) > 1 else one, list(unit.task_prompts), True)]
    yield Section("Prompts", parts.prompts(shown))


def _fitness(run: Run) -> Iterator[Section]:
    caption = "Filled points are units that were not the best before."
    if run.comparison is not None:
        caption += (
            " To the right, both prompts on held-out rows; the bar is the 95\N{NO-BREAK SPACE}% interval of their"
        )
        caption += " difference, put on the seed prompt's figure."
    if run.about("settings").get("batch") is not None:
        caption += " Each fitness is of a few questions, drawn anew: the best of many is partly the luckiest of many."
    yield Section(
        "Fitness", _drawn(figures.fitness, run, "fitness", "best and mean fitness by generation", 4.4, caption)
    )


def _lineage(run: Run) -> Iterator[Section]:
    caption = "Numbers are those of the table below. Coloured lines lead to units that stand at the end; the larger a"
    caption += " mark, the fitter its unit."
    hint = "Each line is a unit, from its birth until it lost; it begins at its parent's."
    drawn = _drawn(lineage, run, "lineage", "who descends from whom, by generation", 6.5, caption)
    yield Section("Descent", drawn, hint)
    yield Section("How the best unit came about", tables.steps(run))


def _operators(run: Run) -> Iterator[Section]:
    if run.operators():
        hint = "How often a child was fitter than its parent; where a line meets the dotted one, it may be chance."
        yield Section("Operators", tables.operators(run), hint)


def _diversity(run: Run) -> Iterator[Section]:
    if any(one.diversity is not None for one in run.stats):
        hint = "1 less the mean likeness of two units' task prompts; at 0 all are alike."
        described = "diversity by generation"
        yield Section("Diversity", _drawn(figures.diversity, run, "diversity", described, 2.8), hint)


def _units(run: Run) -> Iterator[Section]:
    yield Section("The best of each generation", tables.elites(run))
    yield Section("The last population", tables.population(run), "The fittest first.")
    if run.new_mutation_prompts():
        hint = "The prompts that change prompts are bred as well: these no founder had."
        yield Section("New mutation prompts", tables.mutation_prompts(run), hint)


def _measured(run: Run) -> Iterator[Section]:
    task, stats = run.about("task"), run.stats
    settings = ", ".join(
        f"{name}={_value(value)}" for name, value in run.about("settings").items() if value not in _NONE
    )
    models = run.options.get("model")
    named = ", ".join(map(str, models)) if isinstance(models, list) else str(models or "")
    technique = run.options.get("technique")
    questions, failed = sum(one.questions for one in stats), sum(one.failed for one in stats)
    calls, cached = sum(one.calls for one in stats), sum(one.cached_calls for one in stats)
    tokens = (sum(one.prompt_tokens for one in stats), sum(one.completion_tokens for one in stats))
    pairs = [
        ("problem", plain(task.get("description", ""), 2000)),
        ("model", plain(f"{technique}@{named}" if technique else named, 300)),
        ("scorer", plain(f"{task.get('scorer', '')}, {task.get('metric', '')}", 300)),
        ("rows", f"{_count(task.get('rows'))} for fitness, {_count(task.get('held_out'))} held out"),
        ("settings", plain(settings, 2000)),
        ("questions", f"{words.count(questions)}, {words.count(failed)} of which got no answer because a call failed"),
        ("calls", f"{words.count(calls)}, {words.count(cached)} of which a cache answered"),
        ("tokens", f"{words.count(tokens[0])} prompt + {words.count(tokens[1])} completion"),
        ("seconds", words.seconds(sum(one.seconds for one in stats))),
    ]
    yield Section("How it was done", facts([(name, said) for name, said in pairs if said]))


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {said}" for name, said in value.items()) + "}"
    return " ".join(str(value).split())


def _count(rows: object) -> str:
    number = rows.get("count") if isinstance(rows, dict) else None
    return words.count(number) if isinstance(number, int) else "?"


def _drawn(make: Callable[..., object], run: Run, key: str, described: str, height: float, caption: str = "") -> Markup:
    """A figure, and a narrower drawing of it that is `height` inches high, for small screens."""
    with plotting.drawing():
        wide = plotting.inline(make(run), key, described)  # type: ignore[arg-type]
        narrow = plotting.inline(make(run, 4.2, height), f"{key}-narrow", described)  # type: ignore[arg-type]
    return plots(wide, narrow, caption)
