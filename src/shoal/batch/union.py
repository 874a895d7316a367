"""One journal made of several: of every row the better result, of every draw the one that was paid for.

Which result is kept depends on the results alone, never on the order in which journals come: of two the smaller is
taken, in an order in which a finished one comes before a failed one, and one that was paid for before one whose draws
came from a cache. So a union may be made in steps, and again.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import structs

from shoal.batch.journal import TRACES, Journal, KeptDraw, KeptRow
from shoal.runtime.store import checksum
from shoal.runtime.types import Completion, Usage

_CACHE_BYTES = 64 * 2**20
# In a file of SQLite's own, so that any number of them fits in memory.
_DIFFERING = """
    CREATE TEMP TABLE IF NOT EXISTS differing_row (number INTEGER PRIMARY KEY);
    CREATE TEMP TABLE IF NOT EXISTS differing_draw (key BLOB PRIMARY KEY) WITHOUT ROWID
"""


class Union:
    """A journal to which others are added, one at a time. Use through `uniting`.

    `differing_rows` and `differing_draws` count what is finished in several of them, not with the same result.
    """

    def __init__(self, journal: Journal, write: sqlite3.Connection) -> None:
        self._traced = journal.traced
        self._write = write
        for statement in _DIFFERING.split(";"):
            write.execute(statement)

    def add(self, journal: Journal) -> None:
        """Take over what is better in another journal, or not there yet. CorruptStore names what is damaged in it."""
        if journal.traced and not self._traced:
            self._write.execute(TRACES)
            self._traced = True
        for row in journal.kept_rows():
            self._add_row(row)
        for draw in journal.kept_draws():
            self._add_draw(draw)

    @property
    def differing_rows(self) -> int:
        return int(self._write.execute("SELECT count(*) FROM differing_row").fetchone()[0])

    @property
    def differing_draws(self) -> int:
        return int(self._write.execute("SELECT count(*) FROM differing_draw").fetchone()[0])

    def _add_row(self, row: KeptRow) -> None:
        kept = self._kept_row(row.number)
        if kept is not None and not kept.failed and not row.failed and _differ(kept.record, row.record):
            self._write.execute("INSERT OR IGNORE INTO differing_row VALUES (?)", (row.number,))
        if kept is not None and (kept == row or _row_order(kept) < _row_order(row)):
            return
        name = b"%d" % row.number
        values = (row.number, row.failed, checksum(name, row.record), row.record)
        self._write.execute("INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?)", values)
        if not row.untraced:
            trace = (row.number, checksum(name, row.trace), row.trace)
            self._write.execute("INSERT OR REPLACE INTO trace VALUES (?, ?, ?)", trace)
        elif kept is not None and not kept.untraced:  # what was kept of another attempt tells nothing of this one
            self._write.execute("DELETE FROM trace WHERE number = ?", (row.number,))

    def _kept_row(self, number: int) -> KeptRow | None:
        kept = self._write.execute("SELECT failed, record FROM row WHERE number = ?", (number,)).fetchone()
        if kept is None:
            return None
        trace = None
        if self._traced:
            trace = self._write.execute("SELECT value FROM trace WHERE number = ?", (number,)).fetchone()
        return KeptRow(bool(kept[0]), kept[1], trace is None, trace[0] if trace else b"", number)

    def _add_draw(self, draw: KeptDraw) -> None:
        kept = self._write.execute("SELECT key, owner, value FROM draw WHERE key = ?", (draw.key,)).fetchone()
        if kept is not None:
            before = KeptDraw(*kept)
            if before == draw:
                return
            if _said(before.completion) != _said(draw.completion):
                self._write.execute("INSERT OR IGNORE INTO differing_draw VALUES (?)", (draw.key,))
            if _draw_order(before) < _draw_order(draw):
                return
        values = (draw.key, draw.owner, checksum(draw.key, draw.value), draw.value)
        self._write.execute("INSERT OR REPLACE INTO draw VALUES (?, ?, ?, ?)", values)


@contextmanager
def uniting(journal: Journal) -> Iterator[Union]:
    """Unite others with a journal in the body: all of it or, where the body raises or the process ends, nothing."""
    with journal.store.transaction(_CACHE_BYTES) as write:
        yield Union(journal, write)


def _row_order(row: KeptRow) -> tuple[bool, int, KeptRow]:
    """Finished ones come first, then those that paid for most of their draws: what came from a cache cost nothing."""
    told = msgspec.json.decode(row.record)
    usage = told.get("usage") if isinstance(told, dict) else None
    return row.failed, -usage.get("calls", 0) if isinstance(usage, dict) else 0, row


def _draw_order(draw: KeptDraw) -> tuple[bool, int, bytes]:
    """Draws that were paid for come first, then those of earlier rows: they own what they share with later ones."""
    return not draw.completion.usage.calls, draw.owner, draw.value


def _differ(one: bytes, other: bytes) -> bool:
    """Whether rows came to something else; what they cost is no matter, for draws from a cache cost nothing."""
    return one != other and _result(one) != _result(other)


def _result(record: bytes) -> Any:
    told = msgspec.json.decode(record)
    return {name: value for name, value in told.items() if name != "usage"} if isinstance(told, dict) else told


def _said(completion: Completion) -> Completion:
    """What a draw came to, without what it cost and the name of the reply it came in."""
    return structs.replace(completion, usage=Usage(), id=None)
