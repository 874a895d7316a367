"""Directories for what lasts as long as a process: one that was killed leaves its own to the next that makes one."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no advisory file locks of this kind
    fcntl = None  # type: ignore[assignment]

_PREFIX = "shoal-"
_HELD, _FILES = "held", "files"  # a file that is locked while the maker lives, and the directory that is used


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory, for the body and for this user alone. First removes those that killed processes left."""
    _sweep(Path(tempfile.gettempdir()))
    place = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with contextlib.ExitStack() as held:
        held.callback(_remove, place)
        _hold(place, held)
        files = place / _FILES
        files.mkdir()
        yield files


def _hold(place: Path, held: contextlib.ExitStack) -> None:
    """Lock a file that says which machine this is. It gets its name once it is locked: no sweep sees it unlocked."""
    if fcntl is None:  # pragma: no cover
        return
    unnamed = place / f"{_HELD}.new"
    file = held.enter_context(unnamed.open("x"))
    with contextlib.suppress(OSError):  # without locks nobody can tell, and it is never swept
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(platform.node())
        file.flush()
        unnamed.rename(place / _HELD)


def _sweep(folder: Path) -> None:
    """Remove what processes of this user left on this machine, and of nobody who lives."""
    if fcntl is None:  # pragma: no cover
        return
    for place in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, directory)
            if os.fstat(directory).st_uid != os.geteuid():
                continue
            file = os.open(_HELD, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
            opened.callback(os.close, file)
            if os.read(file, 1 << 10).decode(errors="replace") == platform.node():  # locks may not reach other machines
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(place)


def _remove(place: Path) -> None:
    shutil.rmtree(place / _FILES, ignore_errors=True)  # first, so that what is left of it after a kill is swept too
    shutil.rmtree(place, ignore_errors=True)
