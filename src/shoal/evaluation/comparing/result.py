"""What a comparison found: plain frozen data, as it stands in comparison.json."""

from typing import Any

import msgspec
from msgspec import Struct


class Interval(Struct, frozen=True):
    """A 95 % confidence interval."""

    low: float
    high: float


class Point(Struct, frozen=True):
    """A technique at one size. `tokens` and `calls` are those of one row, on average, as if it had been run alone."""

    n: int
    value: float
    interval: Interval
    tokens: float
    calls: float


class Arm(Struct, frozen=True):
    """One thing compared.

    `name` is as the user wrote it, `spec` the whole spec with its model. `value` is the metric over all `rows`; a
    failed row counts as wrong. `calls` and tokens are what this arm alone would cost, nothing cached or shared;
    `paid_tokens` what was spent on it in this comparison. Costs are of all rows `asked`, those left out of `rows` for
    want of a score as well (0: as many as `rows`). `seconds` is a row's mean critical path, waiting for a turn not
    counted; it, `dollars` and `wire_requests` (those that carried its draws) are None where unknown. `frontier`: no
    other arm is better for at most its tokens; never of an arm that failed on every row. `curve` is the same technique
    at smaller sizes, from the same draws.
    """

    name: str
    spec: str
    rows: int
    failed: int
    value: float
    interval: Interval
    calls: int
    wire_requests: int | None
    prompt_tokens: int
    completion_tokens: int
    paid_tokens: int
    seconds: float | None
    dollars: float | None
    frontier: bool
    curve: tuple[Point, ...] = ()
    asked: int = 0

    @property
    def answered(self) -> bool:
        """Whether any row was: else nothing is known of it, its costs included."""
        return self.failed < self.rows

    @property
    def costed(self) -> int:
        """The rows that calls, tokens and dollars are of."""
        return self.asked or self.rows


class Difference(Struct, frozen=True):
    """Arm `b` against arm `a`, row by row.

    `value` is b's metric less a's. `wins` are the rows on which b scored more, `losses` those on which it scored less.
    `p` is of the exact McNemar test where every score is 0 or 1, else of a paired permutation test; `adjusted` is p
    adjusted (Holm) for the several comparisons with the first arm, and None between two others.
    """

    a: str
    b: str
    value: float
    interval: Interval
    p: float
    wins: int
    losses: int
    ties: int
    adjusted: float | None = None


class Comparison(Struct, frozen=True):
    """Arms on the same rows.

    `differences` are those of every pair, first the pairs with the first arm. `example` is one real row: its `prompt`,
    its `target`, and under `answers` the `answer` and the `score` of each arm by name.
    """

    title: str
    data: str
    rows: int
    metric: str
    scorer: str
    model: str
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    budget: str | None
    notes: tuple[str, ...]
    made: str
    example: dict[str, Any]


def encode(comparison: Comparison) -> bytes:
    """As comparison.json holds it."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"


decode = msgspec.json.Decoder(Comparison).decode
