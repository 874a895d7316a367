"""Rows followed through dry runs: what each asks, and what all of them ask of each model."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.batch.rows import Row
from shoal.batch.runner import RowProgram, window_for
from shoal.errors import Unsupported, UsageError
from shoal.planning.dry_run import DryRun, Followed, Kept, following
from shoal.planning.replies import brief, long
from shoal.runtime import scope
from shoal.runtime.concurrency import map_bounded
from shoal.runtime.trace import Span, tracing

T = TypeVar("T")
_AFFORDABLE = 20_000  # calls that are followed one by one; where there are more, some rows stand for all
_FEWEST_ROWS = 8


class RowTold(Struct):
    """What one row did: `asked` are the techniques and base models that the program itself called, by name."""

    number: int
    asked: tuple[str, ...]
    followed: Followed
    error: Exception | None = None


class Told(Struct):
    """Two dry runs over rows: `brief` with short and equal replies and every wire request at once, `long` with long
    and different ones, waiting as for the models. `first` are a few rows with long replies, and as wide as `brief`.
    """

    brief: DryRun
    long: DryRun
    rows: list[RowTold]
    long_rows: list[RowTold]
    first: list[RowTold]

    @property
    def bases(self) -> dict[str, BaseModel]:
        """The models that were asked, by name."""
        return self.brief.bases | self.long.bases


async def follow_rows(program: RowProgram, rows: Iterable[Row], left: Sequence[int], kept: Sequence[Kept]) -> Told:
    """Follow all rows that are left, or as many as can be afforded.

    Raises the error of the rows where each of them fails as it would for any model.
    """
    probe = DryRun(long, kept=kept, wide=True)
    first = await _follow(program, rows, spread(left, _FEWEST_ROWS), probe)
    calls = sum(tally.calls + tally.kept for tally in probe.tallies.values()) / len(first)
    chosen = spread(left, max(_FEWEST_ROWS, int(_AFFORDABLE / max(calls, 1.0))))
    brief_run, long_run = DryRun(brief, kept=kept, wide=True), DryRun(long, kept=kept)
    told = await _follow(program, rows, chosen, brief_run)
    hopeless = next((row.error for row in told if row.error is not None), None)
    if isinstance(hopeless, UsageError | Unsupported) and all(row.error is not None for row in told):
        raise hopeless
    return Told(brief_run, long_run, told, await _follow(program, rows, chosen, long_run, probe), first)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, from all parts."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * most)] for i in range(most)]


def numbered(rows: Iterable[Row], chosen: Collection[int]) -> Iterator[tuple[int, Row]]:
    """The rows of these numbers."""
    wanted = set(chosen)
    return ((number, row) for number, row in enumerate(rows) if number in wanted)


async def _follow(
    program: RowProgram, rows: Iterable[Row], chosen: Collection[int], run: DryRun, before: DryRun | None = None
) -> list[RowTold]:
    window = window_for((before or run).bases.values())

    async def one(item: tuple[int, Row]) -> RowTold:
        number, row = item
        error = None
        with scope.setting(scope.age, number), following() as followed, tracing("row") as root:
            try:
                await program(row)
            except Exception as failure:  # noqa: BLE001 - whatever befalls a row is told with it
                error = failure
        return RowTold(number, tuple(asked_by(root)), followed, error)

    with run.on():
        told = [row async for row in map_bounded(one, numbered(rows, chosen), window)]
    return sorted(told, key=lambda row: row.number)


def asked_by(span: Span) -> Iterator[str]:
    """The techniques and calls right below a program, by name; not those that techniques make."""
    for child in span.children:
        if child.kind in ("technique", "call"):
            yield child.name
        else:
            yield from asked_by(child)
