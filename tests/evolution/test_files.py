"""Folders from somebody else: what they hold is read within bounds, or refused."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from tests.evolution.day_cares import folder

from shoal.errors import UsageError
from shoal.evolution.day_care import open_day_care
from shoal.evolution.files import read_bytes
from shoal.evolution.folder import new_run

FILES = ["breeder.yaml", "mutation_prompts.json", "thinking_styles.json", "good/task_description.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_end_is_refused(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "f") / name
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=f"{name}: cannot be read: it is no regular file"):
        open_day_care(tmp_path / "f", "good")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="no regular file"):
        open_day_care(tmp_path / "f", "good")


@pytest.mark.parametrize("name", FILES)
def test_a_huge_file_is_refused(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "f") / name
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UsageError, match="larger than 16 MiB"):
        open_day_care(tmp_path / "f", "good")


def test_deep_json_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "f") / "good" / "task_description.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match="not JSON"):
        open_day_care(tmp_path / "f", "good")


def test_a_short_yaml_that_stands_for_a_huge_one_is_refused(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)]
    folder(tmp_path / "f", breeder__yaml="a0: &a0 {x: y}\n" + "".join(levels))
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"line 3: not YAML \(<< is not read here\)"):
        open_day_care(tmp_path / "f", "good")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_file_as_large_as_is_allowed_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps("x"))
    assert read_bytes(tmp_path / "x") == b'"x"'


def test_a_run_is_for_its_owner_only(tmp_path: Path) -> None:
    """Its files hold the user's data and what models said."""
    assert new_run(tmp_path).stat().st_mode & 0o077 == 0
