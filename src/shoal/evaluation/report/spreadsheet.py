"""Tables for other programs: CSV in which no text is a formula to a spreadsheet."""

import csv
from collections.abc import Iterable, Sequence
from io import StringIO

from shoal.evaluation.comparing.result import Arm, Comparison
from shoal.evaluation.report.numbers import tokens_per_row
from shoal.traces import words

Cell = str | float | bool | None

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_ARMS = (
    "name", "spec", "rows", "failed", "value", "low", "high", "tokens_per_row", "prompt_tokens", "completion_tokens",
    "paid_tokens", "calls", "wire_requests", "seconds_per_row", "dollars", "frontier",
)  # fmt: skip
_DIFFERENCES = ("a", "b", "b_less_a", "low", "high", "p", "wins", "losses", "ties", "p_adjusted")


def arms_csv(comparison: Comparison) -> bytes:
    """A line an arm, in the order of the command line; what is unknown is empty. Values are shares, not per cent."""
    return _csv(_ARMS, (_arm(arm) for arm in comparison.arms))


def differences_csv(comparison: Comparison) -> bytes:
    """A line a pair of arms: arm b against arm a."""
    found = ((it, it.interval) for it in comparison.differences)
    lines = (
        (it.a, it.b, it.value, span.low, span.high, it.p, it.wins, it.losses, it.ties, it.adjusted)
        for it, span in found
    )
    return _csv(_DIFFERENCES, lines)


def _arm(arm: Arm) -> Sequence[Cell]:
    return (
        arm.name, arm.spec, arm.rows, arm.failed, arm.value, arm.interval.low, arm.interval.high, tokens_per_row(arm),
        arm.prompt_tokens, arm.completion_tokens, arm.paid_tokens, arm.calls, arm.wire_requests, arm.seconds,
        arm.dollars, str(arm.frontier).lower(),
    )  # fmt: skip


def _csv(header: Sequence[str], lines: Iterable[Sequence[Cell]]) -> bytes:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_defused(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return file.getvalue().encode()


def _defused(text: str) -> str:
    """Text that a spreadsheet shows: an apostrophe before what it would compute."""
    text = words.visible(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or (text[:1] in "\t\r\n" and text) else text
