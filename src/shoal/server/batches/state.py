"""The server's directory: its files, and which batches there are, on disk before a client is told.

`state.sqlite` lists files and batches, `files/` holds contents, `batches/` the journals of batches under way. All names
are of our own making.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from shoal.batch.directory import UNFINISHED, DirectoryLock
from shoal.errors import CorruptStore, StoreError
from shoal.runtime.store import Statement, Store, checksum
from shoal.server.batches.objects import ENDED, Batch, File

log = logging.getLogger("shoal.server")
T = TypeVar("T", File, Batch)
_VERSION = 1
_OURS = re.compile(
    rf"(file-[0-9a-f]{{24}}|\.file-[0-9a-f]{{24}}{UNFINISHED}|batch_[0-9a-f]{{24}}\.sqlite(-wal|-shm)?)$"
)
_SCHEMA = """
    CREATE TABLE file (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
        purpose TEXT NOT NULL, bytes INTEGER NOT NULL, sum BLOB NOT NULL, value BLOB NOT NULL);
    CREATE TABLE batch (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
        ended INTEGER NOT NULL, sum BLOB NOT NULL, value BLOB NOT NULL);
    CREATE INDEX file_of ON file (owner, seq);
    CREATE INDEX batch_of ON batch (owner, seq)
"""
_encode = msgspec.json.Encoder().encode


class State:
    """What one server keeps, held by one process at a time.

    Raises StoreError where the place cannot be used; after that the same object may be tried again. An owner is the id
    of a key's holder: what is another's is as good as not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arriving = Counter[str]()  # bytes that uploads under way may come to, by their owners
        self._lock = DirectoryLock(path, "the server's state directory")
        self._store: Store | None = None
        try:
            for directory in (self._files, self._journals):
                directory.mkdir(exist_ok=True, mode=0o700)
            self._tidy()
        except OSError as error:
            self.close()
            raise StoreError(f"{error.filename or path}: cannot be used ({error.strerror})") from error
        except StoreError:
            self.close()
            raise

    @property
    def _files(self) -> Path:
        return self.path / "files"

    @property
    def _journals(self) -> Path:
        return self.path / "batches"

    def content(self, file: File | str) -> Path:
        """Where a file's content is."""
        return self._files / (file if isinstance(file, str) else file.id)

    def journal(self, batch: str) -> Path:
        """Where a batch's finished lines are while it is under way."""
        return self._journals / f"{batch}.sqlite"

    def drop_journal(self, batch: str) -> None:
        path = self.journal(batch)
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove what nothing refers to: uploads and deletions that a crash cut short, journals of what has ended.

        What has no name of ours is somebody else's, in a directory that was there before.
        """
        kept = {id_ for (id_,) in self.store.rows("SELECT id FROM file")}
        under_way = {batch.id for _, batch in self.open_batches()}
        for path in self._files.iterdir():
            if path.name not in kept and _OURS.match(path.name):
                path.unlink()
        for path in self._journals.iterdir():
            if path.name.partition(".")[0] not in under_way and _OURS.match(path.name):
                path.unlink()

    # The list. A store that failed to write is not trusted again: the next use opens the file anew.

    @property
    def store(self) -> Store:
        if self._store is None:
            path = self.path / "state.sqlite"
            self._store = Store(path, kind="server state", version=_VERSION, schema=_SCHEMA, durable=True)
        return self._store

    async def _write(self, *statements: Statement) -> None:
        store = self.store
        try:
            await store.write(*statements)
        except StoreError:
            if self._store is store:
                self._store = None
                store.close()
            raise

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        self._lock.release()

    def file(self, owner: str, id_: str) -> File | None:
        rows = self.store.rows("SELECT id, sum, value FROM file WHERE id = ? AND owner = ?", (id_, owner))
        return self._decoded(rows[0], File) if rows else None

    def files(self, owner: str, purpose: str | None, page: "Page") -> list[File]:
        """A page of the owner's files."""
        where, values = page.where("file", owner)
        if purpose is not None:
            where, values = f"purpose = ? AND {where}", (purpose, *values)
        rows = self.store.rows(f"SELECT id, sum, value FROM file WHERE {where}", values)
        return [self._decoded(row, File) for row in rows]

    def stored(self, owner: str) -> int:
        """The bytes of all the owner's files."""
        return int(self.store.rows("SELECT coalesce(sum(bytes), 0) FROM file WHERE owner = ?", (owner,))[0][0])

    async def keep_file(self, owner: str, file: File) -> None:
        """List a file, whose content is there already."""
        await self._write(_file_row(owner, file))

    async def delete_file(self, file: File) -> None:
        await self._write(("DELETE FROM file WHERE id = ?", (file.id,)))
        try:
            self.content(file).unlink(missing_ok=True)
        except OSError as error:  # it is listed no more; the next start tries again
            log.warning("%s: cannot be removed (%s)", error.filename, error.strerror)

    def batch(self, owner: str, id_: str) -> Batch | None:
        rows = self.store.rows("SELECT id, sum, value FROM batch WHERE id = ? AND owner = ?", (id_, owner))
        return self._decoded(rows[0], Batch) if rows else None

    def batches(self, owner: str, page: "Page") -> list[Batch]:
        """A page of the owner's batches."""
        where, values = page.where("batch", owner)
        rows = self.store.rows(f"SELECT id, sum, value FROM batch WHERE {where}", values)
        return [self._decoded(row, Batch) for row in rows]

    def open_batches(self) -> list[tuple[str, Batch]]:
        """Those that have not ended, oldest first, each with its owner."""
        rows = self.store.rows("SELECT owner, id, sum, value FROM batch WHERE NOT ended ORDER BY seq")
        return [(owner, self._decoded(row, Batch)) for owner, *row in rows]

    async def keep_batch(self, owner: str, batch: Batch, files: Iterable[File] = ()) -> None:
        """Keep how a batch stands, and in the same moment list the files it gave."""
        value = _encode(batch)
        row: Statement = (
            "INSERT INTO batch (id, owner, ended, sum, value) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET ended = excluded.ended, sum = excluded.sum, value = excluded.value",
            (batch.id, owner, batch.status in ENDED, checksum(batch.id.encode(), value), value),
        )
        await self._write(*(_file_row(owner, file) for file in files), row)

    def _decoded(self, row: Iterable[object], kind: type[T]) -> T:
        id_, sum_, value = row
        assert isinstance(id_, str)
        assert isinstance(value, bytes)
        if checksum(id_.encode(), value) != sum_:
            raise CorruptStore(f"{self.path}: the entry of {id_} is damaged")
        return msgspec.json.decode(value, type=kind)


def _file_row(owner: str, file: File) -> Statement:
    value = _encode(file)
    sum_ = checksum(file.id.encode(), value)
    statement = "INSERT OR REPLACE INTO file (id, owner, purpose, bytes, sum, value) VALUES (?, ?, ?, ?, ?, ?)"
    return statement, (file.id, owner, file.purpose, file.bytes, sum_, value)


class Page(msgspec.Struct, frozen=True):
    """A part of a list: up to `limit` entries and one more, which tells that there are, after the entry `after`."""

    limit: int
    after: str | None = None
    ascending: bool = False

    def where(self, table: str, owner: str) -> tuple[str, tuple[object, ...]]:
        """The end of a query, and its values."""
        order, sign = ("ASC", ">") if self.ascending else ("DESC", "<")
        values: tuple[object, ...] = (owner,)
        where = "owner = ?"
        if self.after is not None:
            where += f" AND seq {sign} (SELECT seq FROM {table} WHERE id = ? AND owner = ?)"
            values += (self.after, owner)
        return f"{where} ORDER BY seq {order} LIMIT {self.limit + 1}", values


def private_file(path: Path) -> int:
    """A new file that only its owner may read; its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
