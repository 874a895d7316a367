"""Scratch directories: gone with their process, or with the next one; and nobody else's is touched."""

import fcntl
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shoal.runtime.scratch import scratch_directory

LIVING = """
import sys
from shoal.runtime.scratch import scratch_directory
with scratch_directory() as place:
    (place / "file").write_text("mine")
    print(place, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def living(folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    known = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", LIVING], env=known, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(temporary: Path) -> None:
    (killed, left), (other, kept) = living(temporary), living(temporary)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "file").read_text() == "mine"
    with scratch_directory() as place:
        assert not left.parent.exists()
        assert (kept / "file").read_text() == "mine"
        assert list(place.iterdir()) == []
        assert place.parent.stat().st_mode & 0o777 == 0o700
        with scratch_directory() as another:  # of the same process
            assert place.exists()
            assert another != place
    other.communicate()
    assert list(temporary.iterdir()) == []


def left_behind(folder: Path, *, host: str = platform.node()) -> Path:
    place = folder / "shoal-left"
    (place / "files" / "deep").mkdir(parents=True)
    (place / "files" / "deep" / "file").write_text("")
    (place / "held").write_text(host)
    return place


def test_what_is_nobodys_for_certain_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swept() -> bool:
        with scratch_directory():
            return not (temporary / "shoal-left").exists()

    elsewhere = left_behind(temporary.parent)
    (temporary / "shoal-left").symlink_to(elsewhere)
    assert not swept()
    assert (elsewhere / "files" / "deep" / "file").exists()
    (temporary / "shoal-left").unlink()

    place = left_behind(temporary, host="another-machine")
    assert not swept()
    (place / "held").unlink()  # made by something else, or where there are no locks
    assert not swept()
    (place / "held").symlink_to(elsewhere / "held")
    assert not swept()
    (place / "held").unlink()
    os.mkfifo(place / "held")
    assert not swept()
    (place / "held").unlink()
    (place / "held").write_text(platform.node())
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
        assert not swept()
    with (place / "held").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert not swept()
    assert swept()


def test_links_in_what_is_removed_are_not_followed(temporary: Path) -> None:
    place = left_behind(temporary)
    precious = temporary.parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("")
    (place / "files" / "link").symlink_to(precious)
    with scratch_directory():
        assert not place.exists()
    assert (precious / "file").exists()
