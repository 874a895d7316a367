"""A SQLite file of ours: checked when opened, written by one thread in groups, every value under a checksum.

Used by the draw cache (disposable, shared by processes) and by run journals (never lost, one process).
"""

import asyncio
import contextlib
import os
import queue
import shutil
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from shoal.errors import CorruptStore, StoreError

_APPLICATION_ID = 0x53484F41  # "SHOA" in the file's header: nobody else's database is ever written to
_GROUP = 64  # most jobs in one transaction
_BUSY_SECONDS = 60.0

Statement = tuple[str, Sequence[Any]]
_Job = tuple[list[Statement], asyncio.AbstractEventLoop, "list[asyncio.Future[None]]"]


def checksum(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.digest()


class Store:
    """One SQLite file in WAL mode. `durable`: a write survives a power cut (synchronous=FULL), not only a kill.

    `schema` None opens a file that is there for reading alone: nothing on disk is made or changed. Raises StoreError
    where the place cannot be used and CorruptStore where the file is damaged or not of this `kind`.
    """

    def __init__(self, path: Path, *, kind: str, version: int, schema: str | None, durable: bool) -> None:
        self.path = path
        fresh = schema is not None and (not path.exists() or path.stat().st_size == 0)
        try:
            if schema is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if fresh:
                path.touch(mode=0o600)
            self._reader = _connect(path, durable) if schema is not None else _connect_to_read(path)
            with self._reading():
                if schema is None:
                    self._check(kind, version)
                else:
                    self._claim(kind, version, schema)
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(f"{path}: cannot be used ({error})") from error
        except sqlite3.DatabaseError as error:
            raise CorruptStore(
                f"{path}: damaged, or not a {kind} of shoal's ({error}); move it away to go on"
            ) from error
        self._writer = _Writer(path, durable)
        if schema is None:
            self._writer.failure = StoreError(f"{path}: open for reading alone")
        self._pending: list[Statement] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing: asyncio.AbstractEventLoop | None = None  # the loop that will hand over what is pending
        weakref.finalize(self, self._writer.stop)

    def _claim(self, kind: str, version: int, schema: str) -> None:
        """Create the tables in an empty file; accept ours; refuse any other."""
        run = self._reader.execute
        run("BEGIN IMMEDIATE")
        try:
            identity = run("PRAGMA application_id").fetchone()[0]
            tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not identity and not tables:
                run(f"PRAGMA application_id={_APPLICATION_ID}")
                run("CREATE TABLE about (kind TEXT, version INTEGER)")
                run("INSERT INTO about VALUES (?, ?)", (kind, version))
                for statement in schema.split(";"):
                    run(statement)
            self._check(kind, version)
        finally:
            run("COMMIT")

    def _check(self, kind: str, version: int) -> None:
        if self._reader.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise sqlite3.DatabaseError("another program's database")
        found = self._reader.execute("SELECT kind, version FROM about").fetchone()
        if found != (kind, version):
            raise sqlite3.DatabaseError(f"it holds {found}, expected {(kind, version)}")

    @contextlib.contextmanager
    def _reading(self) -> Any:
        try:
            yield
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise CorruptStore(f"{self.path}: damaged ({error}); move it away to go on") from error

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read committed rows. A local lookup takes microseconds, so it is done where it is asked."""
        try:
            with self._reading():
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: cannot be read ({error})") from error

    @contextlib.contextmanager
    def transaction(self, cache_bytes: int) -> Iterator[sqlite3.Connection]:
        """Write from this thread, all of the body or nothing, where nobody else writes: StoreError where it cannot be.

        Pages are held in memory up to `cache_bytes`.
        """
        run = self._reader.execute
        try:
            run(f"PRAGMA cache_size=-{cache_bytes // 1024}")
            run("BEGIN IMMEDIATE")
            yield self._reader
            run("COMMIT")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path}: {error}; {_space(self.path)}") from error
        finally:
            if self._reader.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    run("ROLLBACK")

    # Writing: statements given in one turn of the event loop are one transaction, wholly on disk or not at all.

    async def write(self, *statements: Statement) -> None:
        """Returns when the statements are on disk; raises StoreError where they are not."""
        if self._writer.failure is not None:
            raise self._writer.failure
        loop = asyncio.get_running_loop()
        if loop is not self._flushing:
            self._flushing = loop
            loop.call_soon(self._flush, loop)
        self._pending += statements
        written: asyncio.Future[None] = loop.create_future()
        self._waiting.append(written)
        # A caller that is cancelled does not take its neighbours' transaction with it.
        await written

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._writer.submit((self._pending, loop, self._waiting))
        self._pending, self._waiting, self._flushing = [], [], None

    def close(self) -> None:
        """Write what is pending and let the file go."""
        self._writer.stop()
        self._reader.close()


class _Writer:
    """The one thread that writes a file: whatever jobs have come meanwhile are one transaction."""

    def __init__(self, path: Path, durable: bool) -> None:
        self.path = path
        self.failure: StoreError | None = None
        self._durable = durable
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: _Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"shoal-store-{self.path.name}", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def stop(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            if threading.current_thread() is not self._thread:
                self._thread.join()
            self._thread = None

    def _work(self) -> None:
        connection = _connect(self.path, self._durable)
        try:
            while (job := self._jobs.get()) is not None:
                group = [job]
                with contextlib.suppress(queue.Empty):
                    while len(group) < _GROUP and (job := self._jobs.get_nowait()) is not None:
                        group.append(job)
                self._write(connection, group)
                if job is None:
                    break
        finally:
            connection.close()

    def _write(self, connection: sqlite3.Connection, group: list[_Job]) -> None:
        error = self.failure
        if error is None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for statements, _, _ in group:
                    for sql, values in statements:
                        connection.execute(sql, values)
                connection.execute("COMMIT")
            except sqlite3.Error as cause:
                # A failed write or fsync leaves what is on disk unknown: no second try on this file.
                error = self.failure = StoreError(f"{self.path}: {cause}; {_space(self.path)}")
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        for _, loop, futures in group:
            with contextlib.suppress(RuntimeError):  # the loop may be gone: then nobody waits
                loop.call_soon_threadsafe(_settle, futures, error)


def _write_ahead(connection: sqlite3.Connection) -> str:
    """Switch to WAL. SQLite does not wait by itself where two processes open a new file and both switch it."""
    deadline = monotonic() + _BUSY_SECONDS
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            return mode
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or monotonic() > deadline:
                raise
            sleep(0.01)


def _connect(path: Path, durable: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    mode = _write_ahead(connection)
    if mode != "wal":
        raise StoreError(f"{path}: this file system cannot hold a write-ahead log; choose a local directory")
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    # Beside a file that nobody has open lies no log, and SQLite would make one even to read; told that the file does
    # not change, it makes none.
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    address = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _settle(futures: "list[asyncio.Future[None]]", error: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(StoreError(*error.args))


def _space(path: Path) -> str:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return "free space unknown"
    return f"{free / 2**20:.0f} MiB free on its disk"


def is_blank(path: Path) -> bool:
    """Whether a file holds nothing yet, or is not there: whoever made it ended before its tables were made."""
    try:
        if not path.exists() or path.stat().st_size == 0:
            return True
        with contextlib.closing(_connect_to_read(path)) as connection:
            identity = connection.execute("PRAGMA application_id").fetchone()[0]
            return not identity and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except (OSError, sqlite3.DatabaseError):  # something is there, and not as it should be: who opens it is told
        return False


def sync_directory(path: Path) -> None:
    """Make a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
