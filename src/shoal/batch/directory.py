"""A run's directory: what was asked (config.json), what is done (journal.sqlite), the result (output.jsonl)."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from shoal.batch.journal import Journal
from shoal.batch.rows import Input
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
        self._lock = DirectoryLock(path, "a run directory")
        try:
            hold_config(path, options, rows)
            self.journal = Journal(path / "journal.sqlite")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        self._lock.release()


def hold_config(path: Path, options: dict[str, Any], rows: Input, option: str = "--run-dir") -> None:
    """Write down in a directory what is asked of which rows; RunError where it holds something else already.

    `option` is what chooses another directory.
    """
    asked = {"options": options, "rows": rows.count, "digest": rows.digest, "input": rows.label}
    if not refuse_other_run(path, options, rows, option) and (path / "journal.sqlite").exists():
        raise CorruptStore(f"{path}: a journal without its config.json; move it away to start anew")
    with atomic_writer(path / "config.json") as out:
        out.write(msgspec.json.format(msgspec.json.encode(asked), indent=2) + b"\n")


def hold_options(path: Path, options: dict[str, Any]) -> None:
    """Write down in a directory what is asked, of rows that come as they come; RunError where it holds another run."""
    config = path / "config.json"
    if config.exists():
        try:
            before = msgspec.json.decode(config.read_bytes())["options"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise CorruptStore(f"{config}: damaged ({error}); move {path} away to start anew") from None
        _compare_options(path, before, msgspec.json.decode(msgspec.json.encode(options)), _advice("run_dir"))
        return
    with atomic_writer(config) as out:
        out.write(msgspec.json.format(msgspec.json.encode({"options": options}), indent=2) + b"\n")


def refuse_other_run(path: Path, options: dict[str, Any], rows: Input, option: str = "--run-dir") -> bool:
    """Whether a directory holds a run; RunError, saying the first difference, where it is one of others."""
    config = path / "config.json"
    if not config.exists():
        return False
    try:
        before = msgspec.json.decode(config.read_bytes())
        _compare(path, before, msgspec.json.decode(msgspec.json.encode(options)), rows, option)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise CorruptStore(f"{config}: damaged ({error}); move {path} away to start anew") from None
    return True


def _compare(path: Path, before: dict[str, Any], options: dict[str, Any], rows: Input, option: str) -> None:
    advice = _advice(option)
    _compare_options(path, before["options"], options, advice)
    if rows.count < before["rows"]:
        raise RunError(f"{path} holds a run of {before['rows']} rows, now there are {rows.count}; {advice}")
    if rows.prefix(before["rows"]) != before["digest"]:
        raise RunError(f"{path} holds a run of other rows: {rows.label} has changed; {advice}")


def _compare_options(path: Path, before: dict[str, Any], options: dict[str, Any], advice: str) -> None:
    for name in sorted(before.keys() | options.keys()):
        old, new = before.get(name), options.get(name)
        if old != new:
            raise RunError(f"{path} holds a run with {name}={_shown(old)}, now {name}={_shown(new)}; {advice}")


def _advice(option: str) -> str:
    return f"choose another {option}, or remove it to start anew"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


class DirectoryLock:
    """An advisory lock that the kernel lets go when its process ends, however it ends. `what` the directory is for."""

    def __init__(self, directory: Path, what: str) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = (directory / "lock").open("a+")
        except OSError as error:
            raise StoreError(f"{directory}: cannot be used as {what} ({error.strerror})") from error
        if fcntl is None:  # pragma: no cover
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StoreLocked(f"{directory} is in use by process {holder}") from None
        with contextlib.suppress(OSError):  # the lock holds; on a full disk it merely has no name
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all, and stays if the power goes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):  # what cannot be removed must not hide why the file was not written
            partial.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """A JSON Lines file, replaced as a whole."""
    with atomic_writer(path) as out:
        for line in lines:
            out.write(line + b"\n")
