"""A run's directory: what was asked (config.json), what is done (journal.sqlite), the result (output.jsonl)."""

import contextlib
import os
import platform
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from shoal.batch.journal import Journal
from shoal.batch.rows import Input, Shard
from shoal.errors import CorruptStore, RunError, StoreError, StoreLocked
from shoal.runtime.store import sync_directory

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no advisory file locks of this kind
    fcntl = None  # type: ignore[assignment]


class RunDirectory:
    """One run's place on disk, held by one process at a time. Use as a context manager.

    Opening it again with the same rows and options continues the run; rows may be added at the end. With other rows or
    options it raises RunError naming the first difference, and leaves everything as it is.
    """

    def __init__(self, path: Path, options: dict[str, Any], rows: Input) -> None:
        self.path = path
        if rows.shard is not None:
            _make_private(path.parent, "a run directory")  # where the shards will be one run
        self._lock = DirectoryLock(path, "a run directory")
        try:
            remove_unfinished(path)
            hold_config(path, options, rows)
            self.journal = Journal(path / "journal.sqlite")
        except BaseException:
            self._lock.release()
            raise

    def keeps(self, key: bytes) -> bool:
        """Whether a draw is in the journal, by its key."""
        return self.journal.has(key)

    def finished(self) -> bool:
        """Whether no row needs more work."""
        rows = msgspec.json.decode((self.path / "config.json").read_bytes())["rows"]
        return len(self.journal.done()) >= int(rows)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        self._lock.release()


def hold_config(path: Path, options: dict[str, Any], rows: Input, option: str = "--run-dir") -> None:
    """Write down in a directory what is asked of which rows; RunError where it holds something else already.

    `option` is what chooses another directory.
    """
    before = refuse_other_run(path, options, rows, option)
    if before is None:
        if (path / "journal.sqlite").exists():
            raise CorruptStore(f"{path}: a journal without its config.json; move it away to start anew")
    elif before.shard != rows.shard:
        was, now = (f"shard {each}" if each else "the whole" for each in (before.shard, rows.shard))
        raise RunError(f"{path} holds {was} of a run, now {now} is asked for; choose another {option}")
    RunConfig(options, rows.count, rows.digest, rows.label, rows.shard, rows.earlier).write(path)


def hold_options(path: Path, options: dict[str, Any], option: str = "run_dir") -> None:
    """Write down in a directory what is asked of rows that come as they come; RunError where it is something else."""
    before = RunConfig.read(path)
    if before is None:
        RunConfig(options, None, None, "rows as they come").write(path)
    elif differing := before.differing_option(msgspec.json.decode(msgspec.json.encode(options))):
        name, old, new = differing
        advice = f"choose another {option}, or remove it to start anew"
        raise RunError(f"{path} holds a run with {name}={old}, now {name}={new}; {advice}")


def workers_in(path: Path) -> list[Path]:
    """The places in a directory where workers of Ray or Daft keep a journal each, in the order of their names."""
    return sorted(place for place in path.glob("worker-*") if place.is_dir())


def refuse_other_run(path: Path, options: dict[str, Any], rows: Input, option: str = "--run-dir") -> "RunConfig | None":
    """What a directory holds, if it holds a run; RunError, saying the first difference, where it is one of others."""
    before = RunConfig.read(path)
    if before is not None:
        _compare(path, before, msgspec.json.decode(msgspec.json.encode(options)), rows, option)
    return before


class RunConfig(Struct, omit_defaults=True):
    """What is asked of which rows, as it is written down in a run's directory.

    `rows` and `digest` are those of the whole input, and None where whoever made the run did not know them; `earlier`
    are shorter inputs that it is known to begin with. `shard` says which rows the run is of, where not of all.
    """

    options: dict[str, Any]
    rows: int | None
    digest: str | None
    input: str
    shard: Shard | None = None
    earlier: list[tuple[int, str]] = []

    @classmethod
    def read(cls, path: Path) -> "RunConfig | None":
        """What a directory's config.json says, if there is one. CorruptStore where it cannot be read."""
        config = path / "config.json"
        try:
            return msgspec.json.decode(config.read_bytes(), type=cls)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptStore(f"{config}: damaged ({error}); move {path} away to start anew") from None
        except OSError as error:
            raise StoreError(f"{config}: cannot be read ({error.strerror})") from error

    def write(self, path: Path) -> None:
        with atomic_writer(path / "config.json") as out:
            out.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def differing_option(self, options: dict[str, Any]) -> tuple[str, str, str] | None:
        """The first option that is another there: its name, and what it is here and there, short enough to show."""
        for name in sorted(self.options.keys() | options.keys()):
            here, there = self.options.get(name), options.get(name)
            if here != there:
                return name, _shown(here), _shown(there)
        return None


def _compare(path: Path, before: RunConfig, options: dict[str, Any], rows: Input, option: str) -> None:
    advice = f"choose another {option}, or remove it to start anew"
    if differing := before.differing_option(options):
        name, old, new = differing
        raise RunError(f"{path} holds a run with {name}={old}, now {name}={new}; {advice}")
    if before.rows is None or before.digest is None:
        raise RunError(f"{path} holds a run of rows that were never counted; choose another {option}")
    if rows.count < before.rows:
        raise RunError(f"{path} holds a run of {before.rows} rows, now there are {rows.count}; {advice}")
    if rows.prefix(before.rows) != before.digest:
        raise RunError(f"{path} holds a run of other rows: {rows.label} has changed; {advice}")
    found = [*before.earlier, *([(before.rows, before.digest)] if before.rows < rows.count else [])]
    rows.earlier += [each for each in found if each not in rows.earlier]


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


class DirectoryLock:
    """An advisory lock that the kernel lets go when its process ends, however it ends. `what` the directory is for.

    StoreLocked where another holds it, unless that is to be waited for.
    """

    def __init__(self, directory: Path, what: str, *, wait: bool = False) -> None:
        _make_private(directory, what)
        try:
            self._file = (directory / "lock").open("a+")
        except OSError as error:
            raise StoreError(f"{directory}: cannot be used as {what} ({error.strerror})") from error
        if fcntl is None:  # pragma: no cover
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._file.close()
                advice = "choose a directory on a file system that has locks"
                raise StoreError(f"{directory}: cannot be locked ({error.strerror}); {advice}") from error
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StoreLocked(f"{directory} is in use by process {holder}") from None
        with contextlib.suppress(OSError):  # the lock holds; on a full disk it merely has no name
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} on {platform.node()}")  # which may be another machine on this file system
            self._file.flush()

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _make_private(directory: Path, what: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be used as {what} ({error.strerror})") from error


@contextlib.contextmanager
def undisturbed(directory: Path) -> Iterator[None]:
    """No process is at work in a run directory while the body reads it: StoreLocked where one is now."""
    try:
        file = (directory / "lock").open("rb")
    except FileNotFoundError:  # a copy without it, which nobody works in
        yield
        return
    except OSError as error:
        raise StoreError(f"{directory}: cannot be read ({error.strerror})") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = file.read().decode(errors="replace").strip() or "unknown"
                raise StoreLocked(f"{directory} is in use by process {holder}") from None
            except OSError:  # where there are no locks nobody works: it is a copy
                pass
        yield


# What `atomic_writer` puts after a dot and a file's name until the file is whole; a killed process leaves it.
UNFINISHED = r"\.[0-9a-f]{12}\.partial"


@contextlib.contextmanager
def atomic_writer(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all; where it is `durable` it stays if the power goes."""
    # Named by chance: on a file system that machines share, two processes may have one number.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            yield out
            if durable:
                out.flush()
                os.fsync(out.fileno())
        partial.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):  # what cannot be removed must not hide why the file was not written
            partial.unlink(missing_ok=True)


def remove_unfinished(directory: Path) -> None:
    """Remove what a process that was killed had begun to write into a run's directory, which is held."""
    for name in ("config.json", "output.jsonl"):
        for partial in directory.glob(f".{name}.*.partial"):
            with contextlib.suppress(OSError):
                partial.unlink()


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """A JSON Lines file, replaced as a whole."""
    with atomic_writer(path) as out:
        for line in lines:
            out.write(line + b"\n")
