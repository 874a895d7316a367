"""Data files as rows: JSONL, JSON, CSV and Parquet, read as a stream, with errors that name file and line."""

import csv
import sys
from collections.abc import Iterator
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from shoal.errors import UsageError, did_you_mean

Row = dict[str, Any]
_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_decode = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


def read_rows(path: Path, limit: int | None = None, shard: "Shard | None" = None) -> Iterator[Row]:
    """The rows of a data file, or those of a shard, one after another; its ending says the format.

    Raises UsageError naming the file, the line and what is wrong there.
    """
    readers = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    first, step = (0, 1) if shard is None else (shard.index, shard.count)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise UsageError(f"{path}: unknown kind of data file {suffix!r}; {did_you_mean(suffix, _FORMATS)}")
    if not path.is_file():
        raise UsageError(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}")
    try:
        if suffix in readers:
            yield from islice(readers[suffix](path), first, limit, step)
        else:  # lines of other shards need not be read as JSON
            yield from map(_decoded, islice(_lines(path), first, limit, step))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _lines(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    """The lines that are not blank, each with its number in the file."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield path, number, line


def _decoded(numbered: tuple[Path, int, bytes]) -> Row:
    path, number, line = numbered
    try:
        value = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}, line {number}: not JSON ({error})") from None
    return _row(value, f"{path}, line {number}")


def _json(path: Path) -> Iterator[Row]:
    try:
        value = msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, list):
        raise UsageError(f"{path}: expected a list of objects, found {type(value).__name__}")
    for number, item in enumerate(value, 1):
        yield _row(item, f"{path}, item {number}")


def _csv(path: Path) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(sys.maxsize)  # a cell may be a whole document
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    expected = len(reader.fieldnames or ())
                    raise UsageError(f"{path}, line {reader.line_num}: not {expected} cells, as the header has")
                yield row
        except csv.Error as error:
            raise UsageError(f"{path}, line {reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow; pip install 'shoal[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except arrow.ArrowException as error:
        raise UsageError(f"{path}: not a Parquet file ({error})") from None


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def row_id(row: Row) -> str:
    """What a row is called where it has no number: 32 hex digits of its content; equal rows have equal ones."""
    return blake2b(_encode_sorted(row), digest_size=16).hexdigest()


class Shard(Struct, frozen=True):
    """One of `count` equal parts of a run's rows: those whose number leaves `index` when divided by `count`.

    So shards are of one length, to within one row, and equally hard where the rows are sorted; and a row stays in its
    shard whatever is added at the end.
    """

    index: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1)]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def __contains__(self, number: int) -> bool:
        return number % self.count == self.index

    def size(self, rows: int) -> int:
        """How many of so many rows are this shard's."""
        return len(range(self.index, rows, self.count))

    @property
    def folder(self) -> str:
        """The name of its directory in that of the run."""
        return f"shard-{self.index}-of-{self.count}"


class Input:
    """The rows of one run: counted, checked and fingerprinted before anything is spent.

    `digest` is over the rows' content, not the file's bytes, and `prefix(n)` over the first n: a run can be resumed
    with rows added at the end, and a changed row is noticed. `earlier` are shorter inputs that these rows were found
    to begin with, each a number of rows and a digest. Where `shard` is set, the run is of its rows alone; all else
    here is of all rows. `changed` is set when the file is found to hold other rows than it did.
    """

    def __init__(self, path: Path, limit: int | None = None, *, label: str | None = None) -> None:
        self.path = path
        self.label = label or str(path)
        self.limit = limit
        self.columns: dict[str, None] = {}
        self.count = 0
        self.shard: Shard | None = None
        self.earlier: list[tuple[int, str]] = []
        self.changed = False
        self._stamp = _stamp(path)
        digest = blake2b(digest_size=16)
        for row in self:
            self.columns.update(dict.fromkeys(row))
            digest.update(_encode_sorted(row))
            self.count += 1
        if not self.count:
            raise UsageError(f"{self.label}: no rows")
        self.digest = digest.hexdigest()

    def __iter__(self) -> Iterator[Row]:
        return read_rows(self.path, self.limit)

    @property
    def own(self) -> int:
        """How many rows the run is of."""
        return self.count if self.shard is None else self.shard.size(self.count)

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """The rows that the run is of, each with its number among all; no more of them once the file has changed."""
        first, step = (0, 1) if self.shard is None else (self.shard.index, self.shard.count)
        try:
            for number, row in zip(count(first, step), read_rows(self.path, self.count, self.shard), strict=False):
                if self._has_changed():
                    return
                yield number, row
        except UsageError:
            if not self._has_changed():
                raise
        self._has_changed()  # it may also have become shorter

    def _has_changed(self) -> bool:
        """Whether the file no longer begins with these rows: read again only where it was written since."""
        if not self.changed and (stamp := _stamp(self.path)) not in (self._stamp, None):
            self._stamp = stamp
            try:
                self.changed = self._digest(self.count) != self.digest
            except UsageError:
                self.changed = True
        return self.changed

    def require_column(self, name: str, where: str) -> None:
        """UsageError where the rows have no such column, which `where` names."""
        if name not in self.columns:
            near = did_you_mean(name, self.columns)
            raise UsageError(f"{where} names column {name!r}; {self.label} has none: {near}")

    def prefix(self, count: int) -> str:
        """The digest of the first `count` rows."""
        return self.digest if count == self.count else self._digest(count)

    def _digest(self, count: int) -> str:
        digest = blake2b(digest_size=16)
        for row in islice(self, count):
            digest.update(_encode_sorted(row))
        return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells that a file was written or replaced; None where it is gone, which who is reading it does not mind."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
