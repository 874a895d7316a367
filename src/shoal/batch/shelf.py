"""A directory of journals, one a process: what a process finished is found by those that come after it.

A journal has one writer, whose lock the kernel lets go when it ends, however it ends. Whoever comes next folds what the
dead left into one file each and seals it: from then on nothing in it changes, and any number of processes read it, on
any machine that sees the directory. A journal whose writer lives is read on the writer's own machine alone. In the
directory itself may lie one that others were united in: it changes only while nobody is at work here.
"""

import contextlib
import os
import platform
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from shoal.batch.directory import DirectoryLock, hold_options, workers_in
from shoal.batch.journal import Journal
from shoal.batch.union import uniting
from shoal.errors import CorruptStore, StoreLocked
from shoal.runtime.store import is_blank
from shoal.runtime.types import Completion, Usage

_FILE, _SEALED, _ASKED = "journal.sqlite", "sealed", "asked"
_MOST_SEALED = 8  # journals are looked into one after another: more than these become one
_ENDING_SECONDS = 30.0  # who still holds a lock after this is at work, and finds by itself what is its own


class SharedJournal(Journal):
    """A journal that also gives what those beside it hold."""

    def __init__(self, path: Path, shelf: "Shelf") -> None:
        super().__init__(path)
        self._shelf = shelf

    def draw(self, key: bytes) -> tuple[int, Completion] | None:
        kept = super().draw(key)
        for journal in self._shelf.others() if kept is None else ():
            if (kept := journal.draw(key)) is not None:
                break
        return kept

    def finished(self, number: int) -> bytes | None:
        """The result of a row that is finished and has not failed, as it was kept."""
        for journal in (self, *self._shelf.others()):
            kept = journal.record(number)
            if kept is not None and not kept[0]:
                return kept[1]
        return None


class Shelf:
    """A directory of journals, open for one process: `journal` is its own, which shows what the others hold.

    `asked` is the same for all who work together. RunError where the directory was made with other `options`;
    StoreError where it cannot be used.
    """

    def __init__(self, path: Path, options: dict[str, Any], asked: str = "") -> None:
        self.path = path
        self._asked = asked
        self._others: dict[Path, Journal] = {}
        # Named for the machine and the process, for people and for who asks whether a neighbour may be read.
        self._of_host = f"worker-{re.sub(r'[^A-Za-z0-9_.]+', '_', platform.node())}-"
        self._of_process = f"{self._of_host}{os.getpid()}-"
        self._mine = path / f"{self._of_process}{secrets.token_hex(6)}"
        self._at_work: set[Path] = set()  # held by others when last looked at
        with _alone(path):
            hold_options(path, options)
            self._open_all()
            self._lock = DirectoryLock(self._mine, "a worker's journal")
            (self._mine / _ASKED).write_text(asked)
            self.journal = SharedJournal(self._mine / _FILE, self)
        self._watch_until = monotonic() + _ENDING_SECONDS

    def _open_all(self) -> None:
        self._at_work = {place for place in workers_in(self.path) if not _seal(place)}
        if not self._at_work:
            _unite(self.path, [place for place in _sealed_in(self.path) if not self._is_with_us(place)])
        if not is_blank(self.path / _FILE):
            self._open(self.path)
        for place in (*_sealed_in(self.path), *self._at_work):
            self._open(place)

    def _is_with_us(self, place: Path) -> bool:
        try:
            return (place / _ASKED).read_text() == self._asked
        except FileNotFoundError:
            return False

    def spent(self) -> tuple[int, Usage]:
        """How many others were at work on the same when this one came, and what those who had ended had paid for."""
        together = [place for place in workers_in(self.path) if place != self._mine and self._is_with_us(place)]
        ended = [self._others[place] for place in together if place in self._others and place not in self._at_work]
        usages = (draw.completion.usage for journal in ended for draw in journal.kept_draws())
        return len(self._at_work.intersection(together)), sum(usages, Usage())

    def _open(self, place: Path) -> None:
        if place not in self._at_work or place.name.startswith(self._of_host):
            self._others[place] = Journal(place / _FILE, read_only=True)

    def others(self) -> Iterator[Journal]:
        """The journals that may be read, but for its own."""
        yield from self._others.values()

    def look(self) -> None:
        """See who has come and who has ended; to be called before rows are run that another may have been at.

        Another's rows come here when it is killed. And the next run over a directory may begin while the processes of
        the last are still ending.
        """
        known = self._others.keys() - self._at_work
        unknown = self._at_work.union(workers_in(self.path)) - known - {self._mine}
        if not unknown:
            return
        late = monotonic() > self._watch_until
        with _alone(self.path):
            for place in unknown:
                ended = not place.exists() or _seal(place)
                # One still at work finds by itself what is its own; but another of this process is asked nothing more.
                if ended or (late and not place.name.startswith(self._of_process)):
                    self._close(place)
                if ended:
                    self._at_work.discard(place)
                else:
                    self._at_work.add(place)
            for place in _sealed_in(self.path):
                if place not in self._others:
                    self._open(place)

    def _close(self, place: Path) -> None:
        if (reader := self._others.pop(place, None)) is not None:
            reader.close()

    def close(self) -> None:
        """Let all files go. What this process finished is on disk already."""
        for place in list(self._others):
            self._close(place)
        self.journal.close()
        self._lock.release()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a directory against others who open, seal or unite journals in it."""
    lock = DirectoryLock(path, "a run directory", wait=True)
    try:
        yield
    finally:
        lock.release()


def _sealed_in(path: Path) -> list[Path]:
    return [place for place in workers_in(path) if (place / _SEALED).exists()]


def _seal(place: Path) -> bool:
    """Whether a journal is sealed now: False where its writer lives."""
    if (place / _SEALED).exists():
        return True
    try:
        lock = DirectoryLock(place, "a worker's journal")
    except StoreLocked:
        return False
    try:
        if not (place / _FILE).exists() or not (place / _FILE).stat().st_size:  # it died before it had begun
            shutil.rmtree(place)
            return True
        Journal(place / _FILE).close()  # checks it, and finishes it where its writer died between two steps
        with contextlib.closing(sqlite3.connect(place / _FILE)) as file:
            busy = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            return False
        for log in place.glob(f"{_FILE}-*"):
            log.unlink(missing_ok=True)
        (place / _SEALED).touch()
        return True
    except sqlite3.Error as error:
        raise CorruptStore(f"{place / _FILE}: damaged ({error}); move {place} away to go on") from error
    finally:
        lock.release()


def _unite(path: Path, places: list[Path]) -> None:
    """Make one journal of many sealed ones, in their directory, where nobody is at work."""
    many = len(places) > _MOST_SEALED
    if not many and not (path / f"{_FILE}-wal").exists():  # it was left by one who died here
        return
    whole = Journal(path / _FILE)
    try:
        if many:
            with uniting(whole) as union:
                for place in places:
                    with contextlib.closing(Journal(place / _FILE, read_only=True)) as journal:
                        union.add(journal)
    finally:
        whole.close()
    for place in places if many else ():
        (place / _SEALED).unlink()  # first, so that what is left of it is not taken for whole
        shutil.rmtree(place)
