"""A pilot: a few rows run for real, and what they tell of the others."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random
from time import monotonic
from typing import Any

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.prices import usages_of
from shoal.batch.rows import Row
from shoal.batch.runner import RowProgram, window_for
from shoal.errors import StoreError, UsageError
from shoal.planning.figures import Pilot, Piloted
from shoal.planning.following import numbered
from shoal.planning.predicting import CONFIDENCE, FEWEST_ROWS
from shoal.runtime import scope
from shoal.runtime.cache import draw_key, question_key
from shoal.runtime.concurrency import map_bounded
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Request, Usage, total


class Measured(Struct):
    """What rows took, each as a mapping from a model's name to its usage, draws of earlier runs included.

    `wire_a_call` is how many wire requests a call of a model came to; 1.0 where none was sent. `row_seconds` is the
    mean of a row; `timed` says whether everything was asked now, so that times mean something. `again` says that rows
    will be paid for again: there was no cache to keep them.
    """

    report: Piloted
    rows: list[dict[str, Usage]]
    wire_a_call: dict[str, float]
    row_seconds: float
    timed: bool
    again: bool

    def values(self, what: str, model: str | None = None) -> list[float]:
        """`what` (a field of Usage) of every row, for one model or for all."""
        return [
            float(sum(getattr(usage, what) for name, usage in row.items() if model in (None, name)))
            for row in self.rows
        ]


def rows_for(pilot: Pilot, left: Sequence[int]) -> list[int]:
    """Which rows a pilot runs: one by chance from each of as many equal parts of what is left."""
    if pilot.rows < FEWEST_ROWS:
        raise UsageError(f"a pilot of {pilot.rows} rows tells nothing of how rows differ; take at least {FEWEST_ROWS}")
    chance = Random(pilot.seed)
    parts = min(pilot.rows, len(left))
    ends = [i * len(left) // parts for i in range(parts + 1)]
    return [left[chance.randrange(start, end)] for start, end in pairwise(ends)]


async def run_pilot(
    program: RowProgram, rows: Iterable[Row], chosen: Sequence[int], bases: Mapping[str, BaseModel]
) -> Measured:
    """Run these rows for real, all at once. Raises the first error where every row fails."""
    sent = {name: base.scheduler.wire_requests for name, base in bases.items()}
    ran = [row async for row in map_bounded(_running(program), numbered(rows, chosen), window_for(bases.values()))]
    wall = max(row.ended for row in ran) - min(row.began for row in ran)
    good = [row for row in ran if row.error is None]
    if not good:
        raise next(row.error for row in ran if row.error is not None)
    calls = [call for row in ran for call in row.root.calls() if call.completion is not None]
    seen = {_key(bases[call.name], call.request) for call in calls if call.request and _is_paid(call, bases)}
    needed = [_needed(row.root, bases, seen) for row in good]
    paid = [usages_of(row.root) for row in ran]
    spent = total(usage for row in paid for _, usage in row)
    draws = {name: sum(usage.calls for row in paid for asked, usage in row if asked == name) for name in bases}
    wires = {name: base.scheduler.wire_requests - sent[name] for name, base in bases.items()}
    return Measured(
        Piloted(tuple(sorted(chosen)), len(ran) - len(good), spent.calls, spent.total_tokens, wall, CONFIDENCE),
        needed,
        {name: wires[name] / draws[name] if wires[name] and draws[name] else 1.0 for name in bases},
        sum(row.ended - row.began for row in good) / len(good),
        timed=spent.calls >= sum(usage.calls for row in needed for usage in row.values()) > 0,
        again=any(base.cache is None for base in bases.values()),
    )


class _Ran(Struct):
    """One row of a pilot: its call tree, when it began and ended, and what befell it."""

    root: Span
    began: float
    ended: float
    error: Exception | None


def _running(program: RowProgram) -> Callable[[tuple[int, Row]], Coroutine[Any, Any, _Ran]]:
    async def one(item: tuple[int, Row]) -> _Ran:
        number, row = item
        began, error = monotonic(), None
        with scope.setting(scope.age, number), tracing("row") as root:
            try:
                await program(row)
            except StoreError:  # a full disk: what is paid for could not be kept
                raise
            except Exception as failure:  # noqa: BLE001 - whatever befalls a row is told with it
                error = failure
        return _Ran(root, began, monotonic(), error)

    return one


def _needed(root: Span, bases: Mapping[str, BaseModel], seen: set[bytes]) -> dict[str, Usage]:
    """What a row needs of each model, whether it was paid for now or before; a draw of two rows counts for one."""
    found: dict[str, Usage] = {}
    for call in root.calls():
        if call.completion is None or call.request is None:
            continue
        usage = call.completion.usage
        if call.name in bases and not usage.calls:
            usage = _first_usage(bases[call.name], call.request, seen)
        found[call.name] = found.get(call.name, Usage()) + usage
    return found


def _is_paid(call: Span, bases: Mapping[str, BaseModel]) -> bool:
    return call.name in bases and call.completion is not None and call.completion.usage.calls > 0


def _first_usage(base: BaseModel, request: Request, seen: set[bytes]) -> Usage:
    """What a kept draw cost when it was paid for."""
    key = _key(base, request)
    kept = base.cache.get(key) if base.cache is not None and key not in seen else None
    seen.add(key)
    return kept.usage if kept is not None else Usage()


def _key(base: BaseModel, request: Request) -> bytes:
    return draw_key(question_key(base.backend.identity, request)[0], request.sample)
