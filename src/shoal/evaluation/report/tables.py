"""The tables of a comparison's page: arms, differences with their intervals drawn, and one real row."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from msgspec import Struct

from shoal.evaluation.comparing.result import Arm, Comparison
from shoal.evaluation.report import numbers
from shoal.evaluation.report.numbers import Against, tokens_per_row
from shoal.evaluation.report.page import Column, render, table
from shoal.evaluation.report.texts import plain
from shoal.traces import words

_MOST = 15  # differences shown at once
_LONG, _ANSWER, _NAME = 3000, 600, 120  # characters


class _Drawn(Struct, frozen=True):
    """A difference on the common scale of all, in per cent of its width."""

    low: float
    high: float
    at: float
    sure: bool


def arms_table(comparison: Comparison) -> Markup:
    """A line an arm, best first; columns that would be empty are left out."""
    arms = numbers.ranked(comparison)
    per_row = [
        (Column("frontier", False, "no other is better for as few tokens"), _frontier),
        (Column("tokens a row", True, "prompt and completion, as if nothing had been cached or shared"), _tokens),
        (Column("calls a row", True, "as if nothing had been cached or shared"), _calls),
        (Column("seconds a row", True, "the longest chain of calls that wait for each other, on average"), _seconds),
        (
            Column(
                "dollars in all",
                True,
                "at list prices, as if nothing had been cached or shared; – where the price is unknown",
            ),
            _dollars,
        ),
        (Column("requests", True, "requests over the wire"), _requests),
        (Column("tokens paid", True, "what was really spent here: draws are shared, answers cached"), _paid),
    ]
    per_row += [(Column("rows failed", True, "counted as wrong"), _failed)] if any(arm.failed for arm in arms) else []
    kept = [(column, cell) for column, cell in per_row if any(cell(arm) for arm in arms)]
    columns = [
        Column("technique"),
        Column(plain(comparison.metric, 40), True),
        Column("95 % interval", True, "holds the true value in 95 of 100 such comparisons"),
        *(column for column, _ in kept),
    ]
    rows = [
        (
            f"{rank}. {plain(arm.name, _NAME)}" if len(arms) > 1 else plain(arm.name, _NAME),
            numbers.value(comparison, arm.value),
            numbers.interval(comparison, arm.interval),
            *(cell(arm) or ("–" if column.number else "") for column, cell in kept),
        )
        for rank, arm in enumerate(arms, 1)
    ]
    return table(columns, rows, marked={place for place, arm in enumerate(arms) if arm.frontier and len(arms) > 1})


def _tokens(arm: Arm) -> str:
    return words.count(tokens_per_row(arm)) if tokens_per_row(arm) else ""


def _calls(arm: Arm) -> str:
    return f"{arm.calls / arm.costed:,.4g}" if arm.costed else ""


def _seconds(arm: Arm) -> str:
    return "" if arm.seconds is None else words.seconds(arm.seconds)


def _dollars(arm: Arm) -> str:
    return "" if arm.dollars is None else numbers.dollars(arm.dollars)


def _requests(arm: Arm) -> str:
    return "" if arm.wire_requests is None else words.count(arm.wire_requests)


def _paid(arm: Arm) -> str:
    return words.count(arm.paid_tokens)


def _failed(arm: Arm) -> str:
    return words.count(arm.failed)


def _frontier(arm: Arm) -> str:
    return "●" if arm.frontier else ""


def differences_table(comparison: Comparison) -> Markup:
    """Each difference with its interval as a number and as a line about zero; all but the first fold away."""
    found = numbers.differences(comparison)
    ends = [0.0, *(one.interval.low for one in found), *(one.interval.high for one in found)]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or 1.0
    low, high = low - room, high + room

    def across(number: float) -> float:
        return round(100 * (number - low) / (high - low), 2)

    unit = "in points: of 100 rows" if numbers.is_share(comparison) else plain(comparison.metric, 40)
    columns = [
        Column("technique"),
        Column("against"),
        Column(
            "difference",
            True,
            unit,
        ),
        Column("95 % interval", True),
        Column("left: worse · right: better"),
        Column("won / lost / same", True, "rows on which the first scored more, less, the same"),
        Column("p", True, "how often chance alone would give so large a difference"),
        Column("p adjusted", True, "for being one of several comparisons with the technique named first (Holm)"),
    ]
    columns = columns if numbers.several(comparison) else columns[:-1]
    rows = [_difference(comparison, one, across)[: len(columns)] for one in found]
    shown = table(columns, rows[:_MOST])
    more = table(columns, rows[_MOST:]) if rows[_MOST:] else None
    return render("differences.html", shown=shown, more=more, number=len(rows) - _MOST)


def _difference(comparison: Comparison, one: Against, across: Any) -> Sequence[str]:
    drawn = _Drawn(across(one.interval.low), across(one.interval.high), across(one.value), one.sure)
    low = numbers.difference(comparison, one.interval.low)
    return (
        plain(one.one, _NAME),
        plain(one.other, _NAME),
        numbers.difference(comparison, one.value),
        f"{low} to {numbers.difference(comparison, one.interval.high)}",
        render("interval.html", drawn=drawn, zero=across(0.0)),
        f"{one.wins} / {one.losses} / {one.ties}",
        numbers.probability(one.p),
        "" if one.adjusted is None else numbers.probability(one.adjusted),
    )


def example(comparison: Comparison) -> Markup:
    """One real row: what was asked, what was wanted, what each arm answered."""
    said = dict(comparison.example)
    answers = said.pop("answers", {})
    answers = answers if isinstance(answers, Mapping) else {}
    rows = [
        (plain(name, _NAME), _clipped(words.shown(its.get("answer")), _ANSWER), _score(its.get("score")))
        for name, its in answers.items()
        if isinstance(its, Mapping)
    ]
    texts = [(str(name), _clipped(words.shown(value), _LONG)) for name, value in said.items() if value is not None]
    answered = table([Column("technique"), Column("answer"), Column("score", True)], rows) if rows else None
    return render("example.html", texts=texts, answered=answered)


def _score(score: object) -> str:
    return "–" if score is None else f"{score:.4g}" if isinstance(score, float | int) else plain(score, 20)


def _clipped(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}… ({words.count(len(text) - most)} more characters)"
