"""A run's journal: every finished draw and every finished row, on disk before anybody sees it."""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from shoal.batch.records import Record, encode
from shoal.errors import CorruptStore
from shoal.runtime.cache import draw_key, question_key
from shoal.runtime.store import Statement, Store, checksum
from shoal.runtime.types import Completion, Request, Usage
from shoal.traces import data
from shoal.traces.data import Trace

_VERSION = 1
_SCHEMA = """
    CREATE TABLE row (number INTEGER PRIMARY KEY, failed INTEGER NOT NULL, sum BLOB NOT NULL, record BLOB NOT NULL);
    CREATE TABLE draw (key BLOB PRIMARY KEY, owner INTEGER NOT NULL, sum BLOB NOT NULL, value BLOB NOT NULL)
"""
# Only in a run that is traced: a journal without it is as good as any.
TRACES = "CREATE TABLE IF NOT EXISTS trace (number INTEGER PRIMARY KEY, sum BLOB NOT NULL, value BLOB NOT NULL)"
_ROWS = "SELECT number, failed, sum, record, NULL, NULL FROM row WHERE number > ? ORDER BY number LIMIT 100"
_TRACED_ROWS = """
    SELECT row.number, failed, row.sum, record, trace.sum, value FROM row LEFT JOIN trace ON trace.number = row.number
    WHERE row.number > ? ORDER BY row.number LIMIT 100
"""
_decode = msgspec.json.Decoder(Completion).decode
_encode = msgspec.json.Encoder().encode


class KeptRow(NamedTuple):
    """A row as a journal has it. Of two with the same result the smaller is the better one: it has a trace."""

    failed: bool
    record: bytes
    untraced: bool
    trace: bytes
    number: int


class KeptDraw(NamedTuple):
    """A draw as a journal has it."""

    key: bytes
    owner: int
    value: bytes

    @property
    def completion(self) -> Completion:
        return _decode(self.value)


class Journal:
    """The SQLite file of one run. Raises StoreError where it cannot be written: then the run must stop.

    With `read_only` the file must be there, and nothing is ever put into it.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        schema = None if read_only else _SCHEMA
        self.store = Store(path, kind="run journal", version=_VERSION, schema=schema, durable=True)
        self.traced = bool(self.store.rows("SELECT 1 FROM sqlite_master WHERE name = 'trace'"))

    async def keep_traces(self) -> None:
        """From here on rows may be finished with a trace."""
        await self.store.write((TRACES, ()))
        self.traced = True

    def done(self) -> set[int]:
        """The numbers of the rows that need no more work: finished, and not failed. Read in steps, as `records`."""
        numbers: set[int] = set()
        last = -1
        while page := self.store.rows(
            "SELECT number, failed FROM row WHERE number > ? ORDER BY number LIMIT 10000", (last,)
        ):
            numbers.update(number for number, failed in page if not failed)
            last = page[-1][0]
        return numbers

    def outcomes(self) -> dict[int, bool]:
        """Of every row kept, by its number, whether it failed."""
        return {number: bool(failed) for number, failed in self.store.rows("SELECT number, failed FROM row")}

    def numbers(self) -> Iterator[int]:
        """The numbers of the rows kept, in order; read in steps."""
        last = -1
        while page := self.store.rows("SELECT number FROM row WHERE number > ? ORDER BY number LIMIT 10000", (last,)):
            yield from (number for (number,) in page)
            last = page[-1][0]

    def drawn(self, after: int) -> int:
        """How many draws are owned by rows with higher numbers."""
        return int(self.store.rows("SELECT COUNT(*) FROM draw WHERE owner > ?", (after,))[0][0])

    def begun(self) -> set[int]:
        """The numbers of the rows that have asked for something, finished or not."""
        return {number for (number,) in self.store.rows("SELECT DISTINCT owner FROM draw")}

    async def finish(self, number: int, record: Record, trace: Trace | None = None) -> None:
        """Keep a row's result and its trace. A row finished once stays as it is; a failed one may be replaced."""
        await self.keep(number, encode(record), failed=record.error is not None, trace=trace)

    async def keep(self, number: int, value: bytes, *, failed: bool, trace: Trace | None = None) -> None:
        """Keep a row's result in the words of whoever will read it; otherwise as `finish`."""
        sum_ = checksum(b"%d" % number, value)
        row: Statement = (
            "INSERT INTO row VALUES (?, ?, ?, ?) ON CONFLICT (number) DO UPDATE "
            "SET failed = excluded.failed, sum = excluded.sum, record = excluded.record WHERE failed",
            (number, failed, sum_, value),
        )
        await self.store.write(row, *self._trace(number, trace))

    def _trace(self, number: int, trace: Trace | None) -> Iterator[Statement]:
        if trace is not None:
            value = zlib.compress(data.encode(trace), 1)  # a tree says the same prompts again and again
            yield "INSERT OR REPLACE INTO trace VALUES (?, ?, ?)", (number, checksum(b"%d" % number, value), value)
        elif self.traced:  # what was kept of an attempt before this one tells nothing of it
            yield "DELETE FROM trace WHERE number = ?", (number,)

    def trace(self, number: int) -> Trace | None:
        """What a row did, where it was traced."""
        if not self.traced:
            return None
        rows = self.store.rows("SELECT sum, value FROM trace WHERE number = ?", (number,))
        if not rows:
            return None
        sum_, value = rows[0]
        self._check(f"the trace of row {number}", sum_, b"%d" % number, value)
        return data.decode(zlib.decompress(value))

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The rows kept, in order, as the JSON they were kept as; read in steps, so that any number fits in memory."""
        last = -1
        while page := self.store.rows(
            "SELECT number, sum, record FROM row WHERE number > ? ORDER BY number LIMIT 1000", (last,)
        ):
            for number, sum_, value in page:
                self._check(f"the result of row {number}", sum_, b"%d" % number, value)
                yield number, value
            last = page[-1][0]

    def record(self, number: int) -> tuple[bool, bytes] | None:
        """Whether a kept row failed, and its result as the JSON it was kept as."""
        rows = self.store.rows("SELECT failed, sum, record FROM row WHERE number = ?", (number,))
        if not rows:
            return None
        failed, sum_, value = rows[0]
        self._check(f"the result of row {number}", sum_, b"%d" % number, value)
        return bool(failed), value

    def kept_rows(self) -> Iterator[KeptRow]:
        """The rows kept, in order, with their traces, as they are on disk; CorruptStore names one that is damaged."""
        last = -1
        while page := self.store.rows(_TRACED_ROWS if self.traced else _ROWS, (last,)):
            for number, failed, sum_, record, trace_sum, trace in page:
                name = b"%d" % number
                self._check(f"the result of row {number}", sum_, name, record)
                if trace is not None:
                    self._check(f"the trace of row {number}", trace_sum, name, trace)
                yield KeptRow(bool(failed), record, trace is None, trace or b"", number)
            last = page[-1][0]

    def kept_draws(self) -> Iterator[KeptDraw]:
        """The draws kept, as they are on disk; CorruptStore names the row of one that is damaged."""
        last = b""
        while page := self.store.rows(
            "SELECT key, owner, sum, value FROM draw WHERE key > ? ORDER BY key LIMIT 1000", (last,)
        ):
            for key, owner, sum_, value in page:
                self._check(f"a draw of row {owner}", sum_, key, value)
                yield KeptDraw(key, owner, value)
            last = page[-1][0]

    def draw(self, key: bytes) -> tuple[int, Completion] | None:
        """A kept draw and the number of the row that asked for it first."""
        rows = self.store.rows("SELECT owner, sum, value FROM draw WHERE key = ?", (key,))
        if not rows:
            return None
        owner, sum_, value = rows[0]
        self._check(f"a draw of row {owner}", sum_, key, value)
        return owner, _decode(value)

    def has(self, key: bytes) -> bool:
        """Whether a draw is kept."""
        return bool(self.store.rows("SELECT 1 FROM draw WHERE key = ?", (key,)))

    def completion(self, key: bytes) -> Completion | None:
        """A kept draw by itself."""
        kept = self.draw(key)
        return kept[1] if kept is not None else None

    def draws(self) -> Iterator[tuple[bytes, Completion]]:
        """All draws kept, as their rows got them, each with its key."""
        last = b""
        while page := self.store.rows(
            "SELECT key, sum, value FROM draw WHERE key > ? ORDER BY key LIMIT 1000", (last,)
        ):
            for key, sum_, value in page:
                self._check("a draw", sum_, key, value)
                yield key, _decode(value)
            last = page[-1][0]

    def _check(self, what: str, sum_: bytes, *parts: bytes) -> None:
        if checksum(*parts) != sum_:
            path = self.store.path
            raise CorruptStore(f"{path}: {what} is damaged; move {path.parent} away to start anew")

    async def keep_draw(self, key: bytes, owner: int, completion: Completion) -> None:
        """Keep a draw. Of several who shared it, the one who paid owns it, whoever of them comes first."""
        value = _encode(completion)
        statement = "INSERT OR REPLACE" if completion.usage.calls else "INSERT OR IGNORE"
        values = (key, owner, checksum(key, value), value)
        await self.store.write((f"{statement} INTO draw VALUES (?, ?, ?, ?)", values))

    def keys(self) -> set[bytes]:
        """The keys of all draws kept."""
        return {key for (key,) in self.store.rows("SELECT key FROM draw")}

    async def own(self, keys: Iterable[bytes], owner: int) -> None:
        """Draws kept before belong to `owner`."""
        await self.store.write(*(("UPDATE draw SET owner = ? WHERE key = ?", (owner, key)) for key in keys))

    async def settled(self) -> None:
        """Returns when all that was to be kept before is on disk, also for tasks that were cancelled meanwhile."""
        await self.store.write()

    def close(self) -> None:
        self.store.close()


class RowRecorder:
    """Keeps the draws of one row, and replays them when it is run again. `usage` sums them, also of a row that fails.

    The row that asked first gets its draw back as it was paid for; for another row it is a cached one: so a resumed run
    counts the same as one that was never interrupted.
    """

    def __init__(self, journal: Journal, number: int) -> None:
        self.journal = journal
        self.number = number
        self.usage = Usage()

    def replay(self, identity: str, request: Request) -> Completion | None:
        kept = self.journal.draw(self._key(identity, request))
        if kept is None:
            return None
        owner, completion = kept
        completion = completion if owner == self.number else completion.cached()
        self.usage = self.usage + completion.usage
        return completion

    async def record(self, identity: str, request: Request, completion: Completion) -> None:
        self.usage = self.usage + completion.usage
        await self.journal.keep_draw(self._key(identity, request), self.number, completion)

    @staticmethod
    def _key(identity: str, request: Request) -> bytes:
        question, _ = question_key(identity, request)
        return draw_key(question, request.sample)
