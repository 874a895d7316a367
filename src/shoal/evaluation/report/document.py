"""The page of a comparison: the answer first, then the plots, the figures, a real row, and how it was measured."""

from collections.abc import Iterable
from datetime import UTC, datetime

from shoal.evaluation.comparing.result import Comparison
from shoal.evaluation.report import figures, numbers, plotting, tables
from shoal.evaluation.report.page import Section, facts, page, plots, render
from shoal.evaluation.report.texts import plain
from shoal.evaluation.report.verdict import verdict
from shoal.traces import words

_COMMAND = "shoal "  # a note that begins so is the command that made the comparison


def document(comparison: Comparison) -> str:
    """The whole page, in one file that refers to no other. Raises UsageError where matplotlib is not installed."""
    sections = (_plots, _arms, _differences, _example, _measured, _again)
    shown = [section for make in sections for section in make(comparison)]
    kicker = f"Techniques compared on the same rows{_when(comparison.made)}"
    return page(comparison.title, kicker, shown, verdict(comparison))


def _when(made: str) -> str:
    """Of a time with its zone, to the minute; anything else as it is."""
    try:
        when = datetime.fromisoformat(made)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        return f" · {plain(made, 40)}" if made else ""
    return f" · {when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _plots(comparison: Comparison) -> Iterable[Section]:
    if not comparison.arms:
        return
    described = f"{plain(comparison.metric, 40)} against tokens a row; the table below has the figures"
    with plotting.drawing():
        wide = plotting.inline(figures.pareto(comparison), "pareto", described)
        narrow = plotting.inline(figures.pareto(comparison, 4.2, 4.8), "pareto-narrow", described)
    numbered = "The numbers are those of the table." if len(comparison.arms) > figures.FEW else ""
    hint = "Up is better, left is cheaper. Filled points are the frontier: no other is better for as few tokens."
    caption = "Bars are 95\N{NO-BREAK SPACE}% intervals. "
    caption += "The dotted steps are the best of the named techniques for as many tokens."
    caption += " Along a line, the numbers are the technique's sizes." if _has_sizes(comparison) else ""
    metric = plain(comparison.metric, 40)
    yield Section(f"{metric[:1].upper()}{metric[1:]} against tokens", plots(wide, narrow, caption, numbered), hint)
    if _has_sizes(comparison):
        yield _curves(comparison)


def _has_sizes(comparison: Comparison) -> bool:
    return any(arm.curve for arm in comparison.arms)


def _curves(comparison: Comparison) -> Section:
    described = f"{plain(comparison.metric, 40)} against the sizes of techniques"
    with plotting.drawing():
        wide = plotting.inline(figures.curves(comparison), "curves", described)
        narrow = plotting.inline(figures.curves(comparison, 4.2, 4.4), "curves-narrow", described)
    caption = "Bands are 95\N{NO-BREAK SPACE}% intervals. The sizes of a technique share draws where they ask the same."
    return Section("Sizes", plots(wide, narrow, caption), "What a technique gains where it may spend more.")


def _arms(comparison: Comparison) -> Iterable[Section]:
    hint = "Best first. The frontier is marked." if len(comparison.arms) > 1 else ""
    yield Section("Techniques", tables.arms_table(comparison), hint)


def _differences(comparison: Comparison) -> Iterable[Section]:
    if comparison.differences:
        hint = "Row by row, the better one first. Where a line meets the dotted zero, chance may be all there is."
        yield Section("Differences", tables.differences_table(comparison), hint)


def _example(comparison: Comparison) -> Iterable[Section]:
    if comparison.example:
        yield Section("One of the rows", tables.example(comparison))


def _measured(comparison: Comparison) -> Iterable[Section]:
    number = len(comparison.differences)
    many = f" Were all equally good, about {number / 20:.1f} of these {number} pairs would still have p below 0.05."
    many = many if number > 1 else ""
    adjusted = ""
    if numbers.several(comparison):
        first = plain(comparison.arms[0].name, 60)
        adjusted = (
            f" p adjusted (Holm) allows for the several comparisons with {first}, and decides where there is one."
        )
    pairs = [
        ("data", f"{plain(comparison.data, 300)}, {words.plural(comparison.rows, 'row')}"),
        ("model", plain(comparison.model, 300)),
        ("scorer", plain(comparison.scorer, 300)),
        ("metric", f"{plain(comparison.metric, 80)}, over all rows; a row that failed counts as wrong"),
        ("budget", plain(comparison.budget or "none", 300)),
        (
            "intervals",
            "95 %: of a hundred comparisons on other such rows, about 95 would have intervals that hold the true "
            "value. They say nothing of rows of another kind, or of another model.",
        ),
        (
            "differences",
            "paired: both techniques on the same rows, so that hard rows are hard for both. p: how often chance alone "
            f"would make a difference so large, for one pair looked at by itself.{many}{adjusted}",
        ),
        ("tokens", "prompt and completion as if each technique had run alone, with nothing cached or shared."),
    ]
    pairs += [("technique", f"{plain(a.name, 120)}: {plain(a.spec, 300)}") for a in comparison.arms if a.spec != a.name]
    pairs += [("note", plain(note, 600)) for note in comparison.notes if not note.startswith(_COMMAND)]
    yield Section("How it was measured", facts(pairs))


def _again(comparison: Comparison) -> Iterable[Section]:
    commands = [words.visible(note) for note in comparison.notes if note.startswith(_COMMAND)]
    if commands:
        yield Section("To do it again", render("commands.html", commands=commands))
