"""Draws on disk: every finished draw is kept before the program sees it, and comes back as the same draw.

A draw's key is the model's identity (endpoint, model, never a key), the whole request and the draw's path. One question
has as many entries as draws were asked of it. Errors are never kept; neither are answers a server's filter cut short.
"""

import os
import warnings
from hashlib import blake2b
from pathlib import Path

import msgspec

from shoal.errors import CorruptStore, StoreError
from shoal.runtime.model import Model
from shoal.runtime.store import Store, checksum
from shoal.runtime.types import Completion, Request

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Completion).decode
_VERSION = 1
_SCHEMA = """
    CREATE TABLE draw (key BLOB PRIMARY KEY, sum BLOB NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE question (key BLOB PRIMARY KEY, text BLOB NOT NULL) WITHOUT ROWID
"""
QUESTION_SIZE = 20  # bytes of a question's key, with which the keys of its draws begin
UNKEPT = frozenset({"content_filter"})


def question_key(identity: str, request: Request) -> tuple[bytes, bytes]:
    """The digest and the text of a question put to a model: all of the request but the draw's path."""
    text = _encode((identity, request.question()))
    return blake2b(text, digest_size=QUESTION_SIZE).digest(), text


def draw_key(question: bytes, path: tuple[int, ...]) -> bytes:
    return question + ".".join(map(str, path)).encode() if path else question


def default_cache_path() -> Path:
    """`$SHOAL_CACHE`, else `shoal/draws.sqlite` in the user's cache directory."""
    if named := os.environ.get("SHOAL_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "shoal" / "draws.sqlite"


class DrawCache:
    """A file of draws that several processes may read and write at once. Draws that ended in `unkept` stay out.

    With `read_only` the file must be there, and nothing is ever put into it. Where it is `durable`, a draw outlasts a
    power cut, which otherwise may take the last ones.
    """

    def __init__(
        self, path: Path, *, unkept: frozenset[str] = UNKEPT, read_only: bool = False, durable: bool = False
    ) -> None:
        self.unkept = unkept
        schema = None if read_only else _SCHEMA
        self.store = Store(path, kind="draw cache", version=_VERSION, schema=schema, durable=durable)

    @property
    def path(self) -> Path:
        return self.store.path

    def get(self, key: bytes) -> Completion | None:
        rows = self.store.rows("SELECT sum, value FROM draw WHERE key = ?", (key,))
        if not rows:
            return None
        sum_, value = rows[0]
        if checksum(key, value) != sum_:
            raise CorruptStore(f"{self.path}: a damaged entry; remove the cache with `shoal cache clear`")
        return _decode(value)

    async def put(self, question: bytes, text: bytes, key: bytes, completion: Completion) -> None:
        value = _encode(completion)
        await self.store.write(
            ("INSERT OR IGNORE INTO question VALUES (?, ?)", (question, text)),
            ("INSERT OR IGNORE INTO draw VALUES (?, ?, ?)", (key, checksum(key, value), value)),
        )

    def has(self, key: bytes) -> bool:
        """Whether a draw is kept."""
        return bool(self.store.rows("SELECT 1 FROM draw WHERE key = ?", (key,)))

    def counts(self) -> tuple[int, int]:
        """Questions and draws kept."""
        questions = self.store.rows("SELECT count(*) FROM question")[0][0]
        return questions, self.store.rows("SELECT count(*) FROM draw")[0][0]

    def close(self) -> None:
        self.store.close()


class Cached:
    """A Model that asks its inner model only for draws it does not have."""

    def __init__(self, model: Model, cache: DrawCache, identity: str) -> None:
        self.model = model
        self.cache = cache
        self.identity = identity
        self._off = False
        self._unwritten: dict[bytes, Completion] = {}  # answered, and not on disk yet

    async def __call__(self, request: Request, /) -> Completion:
        if self._off:
            return await self.model(request)
        question, text = question_key(self.identity, request)
        key = draw_key(question, request.sample)
        kept = self._unwritten.get(key) or self.cache.get(key)
        if kept is not None:
            return kept.cached()
        completion = await self.model(request)
        # A shared draw was kept by the one who paid for it; keeping it again waits for the same write.
        if completion.finish_reason not in self.cache.unkept:
            self._unwritten[key] = completion
            try:
                await self.cache.put(question, text, key, completion)
            except StoreError as error:  # a full disk must not cost an answer that is paid for
                self._switch_off(error)
            # Not where this caller is cancelled: the write goes on, and until it is done the draw is had from here.
            self._unwritten.pop(key, None)
        return completion

    def _switch_off(self, error: StoreError) -> None:
        if not self._off:
            self._off = True
            warnings.warn(f"the cache is off from here on: {error}", stacklevel=3)
