"""The waves of a run on disk: what was sent, what it is called there, and what came back.

A wave is written down before anything of it is sent, so that no call is paid twice, whenever the process dies:

    writing     its requests are being written down; nothing was sent
    written     they are all there, and perhaps their file is with the provider
    creating    its batch is being made: there may be one, which carries the wave's id
    out         its batch is known
    landed      everything that came back is here
    settled     ... and in the run's journal too, so that its requests are forgotten
    dropped     never sent, or refused as a whole: nothing was paid
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from shoal.backends.waves.lines import Line, Reply, custom_id, drawn
from shoal.errors import CorruptStore
from shoal.runtime.store import Statement, Store, checksum

FILE = "waves.sqlite"
FILES = "shoal-wave-*.jsonl"
State = Literal["writing", "written", "creating", "out", "landed", "settled", "dropped"]
OPEN = ("writing", "written", "creating", "out")
_VERSION = 1
_CHUNK = 2000  # lines in one transaction
_SCHEMA = """
    CREATE TABLE wave (number INTEGER PRIMARY KEY, state TEXT NOT NULL, sum BLOB NOT NULL, value BLOB NOT NULL);
    CREATE TABLE line (id INTEGER PRIMARY KEY, wave INTEGER NOT NULL, name TEXT NOT NULL, keys BLOB NOT NULL,
        paid INTEGER NOT NULL DEFAULT 0, sum BLOB, reply BLOB);
    CREATE INDEX line_of ON line (wave);
    CREATE TABLE draw (key BLOB PRIMARY KEY, line INTEGER NOT NULL, place INTEGER NOT NULL) WITHOUT ROWID
"""
_encode = msgspec.json.Encoder().encode
_keys = msgspec.json.Decoder(list[bytes]).decode


class Wave(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One batch. `status` is the provider's word for how it stands, `done` and `failed` count its requests.

    `identity` tells whose draws they are, `model` is that model's name. Times are seconds since 1970.
    """

    number: int
    id: str
    identity: str
    model: str
    endpoint: str
    state: State = "writing"
    requests: int = 0
    draws: int = 0
    digest: str = ""
    written_at: float = 0.0
    created_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    file_id: str | None = None
    batch_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    status: str = ""
    done: int = 0
    failed: int = 0
    note: str = ""
    untidy: bool = False  # what its files at the provider hold is here, and they may not be deleted yet

    @property
    def file_name(self) -> str:
        return f"shoal-wave-{self.id}.jsonl"


_wave = msgspec.json.Decoder(Wave).decode
_reply = msgspec.json.Decoder(Reply).decode


class Kept(Struct, frozen=True):
    """Where a draw is: the request it travels in, its place there, the wave, and the reply if it is here."""

    line: int
    place: int
    draws: int
    wave: int
    reply: Reply | None


class WaveStore:
    """A run's file of waves. `read_only`: it must be there, and stays as it is."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.directory = directory
        schema = None if read_only else _SCHEMA
        self.store = Store(directory / FILE, kind="run's waves", version=_VERSION, schema=schema, durable=True)
        if not read_only:
            for left in directory.glob(FILES):  # of a process that was killed: what it sent is with the provider
                left.unlink()
        self._last = self._most("SELECT max(id) FROM line")
        self._number = self._most("SELECT max(number) FROM wave")

    def _most(self, sql: str) -> int:
        return int(self.store.rows(sql)[0][0] or 0)

    def waves(self, *states: str) -> list[Wave]:
        """The waves, oldest first; only those in one of these states, where any is named."""
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        rows = self.store.rows(f"SELECT number, sum, value FROM wave {where} ORDER BY number", states)
        return [self._decoded(*row) for row in rows]

    def wave(self, number: int) -> Wave:
        return self._decoded(*self.store.rows("SELECT number, sum, value FROM wave WHERE number = ?", (number,))[0])

    def _decoded(self, number: int, sum_: bytes, value: bytes) -> Wave:
        if checksum(b"%d" % number, value) != sum_:
            raise CorruptStore(f"{self.store.path}: wave {number} is damaged; move the file away to go on without it")
        return _wave(value)

    # Writing

    def new(self, id_: str, identity: str, model: str, endpoint: str) -> Wave:
        self._number += 1
        return Wave(
            number=self._number, id=id_, identity=identity, model=model, endpoint=endpoint, written_at=time.time()
        )

    async def begin(self, wave: Wave, lines: Sequence[Line]) -> Wave:
        """Write down a wave and all its requests; each line gets its id. Returns when they are on disk."""
        await self.keep(wave)
        for start in range(0, len(lines), _CHUNK):
            statements: list[Statement] = []
            for line in lines[start : start + _CHUNK]:
                self._last += 1
                line.id = self._last
                values = (line.id, wave.number, custom_id(line.keys), _encode(line.keys))
                statements.append(("INSERT INTO line (id, wave, name, keys) VALUES (?, ?, ?, ?)", values))
                statements += (
                    ("INSERT OR REPLACE INTO draw VALUES (?, ?, ?)", (key, line.id, place))
                    for place, key in enumerate(line.keys)
                )
            await self.store.write(*statements)
        draws = sum(len(line.keys) for line in lines)
        return await self.keep(wave, state="written", requests=len(lines), draws=draws)

    async def keep(self, wave: Wave, *, forget: bool = False, **changes: Any) -> Wave:
        """The wave as it is now, on disk. With `forget` its requests and what came back are removed."""
        wave = structs.replace(wave, **changes)
        value = _encode(wave)
        row = (wave.number, wave.state, checksum(b"%d" % wave.number, value), value)
        gone: list[Statement] = []
        if forget:
            gone = [
                ("DELETE FROM draw WHERE line IN (SELECT id FROM line WHERE wave = ?)", (wave.number,)),
                ("DELETE FROM line WHERE wave = ?", (wave.number,)),
            ]
        await self.store.write(("INSERT OR REPLACE INTO wave VALUES (?, ?, ?, ?)", row), *gone)
        return wave

    async def keep_replies(self, replies: Iterable[tuple[int, Reply]]) -> None:
        """What came back to requests, by their ids."""
        statements: list[Statement] = []
        for id_, reply in replies:
            value = _encode(reply)
            values = (drawn(reply), checksum(b"%d" % id_, value), value, id_)
            statements.append(("UPDATE line SET paid = ?, sum = ?, reply = ? WHERE id = ?", values))
        await self.store.write(*statements)

    # Reading

    def find(self, key: bytes) -> Kept | None:
        """Where a draw is that was written down in some wave."""
        rows = self.store.rows(
            "SELECT line.id, place, line.keys, wave, sum, reply FROM draw JOIN line ON line.id = draw.line "
            "WHERE key = ?",
            (key,),
        )
        if not rows:
            return None
        line, place, keys, wave, sum_, value = rows[0]
        if value is not None and checksum(b"%d" % line, value) != sum_:
            raise CorruptStore(f"{self.store.path}: a reply is damaged; move the file away to go on without it")
        return Kept(line, place, len(_keys(keys)), wave, _reply(value) if value is not None else None)

    def names(self, wave: int) -> dict[str, tuple[int, bool]]:
        """The requests of a wave by their names in its files: id, and whether the reply is here."""
        rows = self.store.rows("SELECT name, id, reply IS NOT NULL FROM line WHERE wave = ?", (wave,))
        return {name: (id_, bool(here)) for name, id_, here in rows}

    def keys(self, wave: int) -> Iterator[bytes]:
        """The draws of a wave that came back and were paid for."""
        last = -1
        while page := self.store.rows(
            "SELECT id, keys FROM line WHERE wave = ? AND id > ? AND paid ORDER BY id LIMIT 1000",
            (wave, last),
        ):
            for last, keys in page:  # noqa: B007 - where the next page begins
                yield from _keys(keys)

    def close(self) -> None:
        self.store.close()
