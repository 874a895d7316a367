"""What each key spent today, on disk: a restart forgets nothing, and servers that share the file share the count."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import time

from shoal.errors import StoreError
from shoal.runtime.store import Store

log = logging.getLogger("shoal.server")
_DAY = 86400
_KEPT_DAYS = 35
_SCHEMA = "CREATE TABLE spent (key TEXT, day INTEGER, tokens INTEGER, PRIMARY KEY (key, day)) WITHOUT ROWID"
_ADD = "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"


def seconds_left_today(now: float) -> float:
    """Seconds until midnight UTC."""
    return _DAY - now % _DAY


class Ledger:
    """Tokens by key and day of UTC, in memory alone where there is no `path`.

    Adding never waits: what is added is on disk some milliseconds later.

    A file that can no longer be written is told of once, and what is counted is counted in memory from then on.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time) -> None:
        self._store: Store | None = None
        if path is not None:
            self._store = Store(path, kind="usage ledger", version=1, schema=_SCHEMA, durable=True)
        self._clock = clock
        self._day = 0
        self._spent: Counter[str] = Counter()  # today, with what is not on disk yet
        self._unwritten: Counter[tuple[str, int]] = Counter()
        self._writing: asyncio.Task[None] | None = None
        self._failed = False
        self._read()

    def spent(self, key: str) -> int:
        """Tokens that a key spent today."""
        if self._today() != self._day:
            self._read()
        return self._spent[key]

    def add(self, key: str, tokens: int) -> None:
        """Count tokens that a key spent. On an event loop."""
        self.spent(key)
        self._spent[key] += tokens
        self._unwritten[key, self._day] += tokens
        if self._store is not None and self._writing is None and not self._failed:
            self._writing = asyncio.ensure_future(self._write(self._store))

    async def aclose(self) -> None:
        """Write what is not on disk yet, and let the file go."""
        if self._writing is not None:
            await self._writing
        if self._store is not None:
            self._store.close()

    def _today(self) -> int:
        return int(self._clock() // _DAY)

    def _read(self) -> None:
        self._day = self._today()
        sql = "SELECT key, tokens FROM spent WHERE day = ?"
        kept = [] if self._store is None else self._store.rows(sql, (self._day,))
        self._spent = Counter({str(key): int(tokens) for key, tokens in kept})
        for (key, day), tokens in self._unwritten.items():
            if day == self._day:
                self._spent[key] += tokens

    async def _write(self, store: Store) -> None:
        try:
            while self._unwritten:
                rows, self._unwritten = self._unwritten, Counter()
                old = self._day - _KEPT_DAYS
                adding = [(_ADD, (key, day, tokens)) for (key, day), tokens in rows.items()]
                await store.write(*adding, ("DELETE FROM spent WHERE day < ?", (old,)))
                self._read()  # other servers may have added to it
        except StoreError as error:
            self._failed = True
            log.error("what keys spend is counted in memory from here on, and lost at the end: %s", error)
        finally:
            self._writing = None
