"""Generations logged to Weights & Biases: by the real library, offline, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import CorruptStore, UsageError
from shoal.evolution import Settings
from shoal.evolution.report.reading import read
from shoal.evolution.tracking import Tracker, figures

SCRIPT = Path(__file__).with_name("tracked.py")
ROOT = Path(__file__).parents[2]
SECRET = "sk-0123456789abcdef"


def tracked(folder: Path, generations: int) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": "f" * 40,
        "OPENAI_API_KEY": SECRET,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "HOME": str(folder.parent),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, folder, str(generations)],
        env=environment,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def sent(folder: Path) -> list[list[Any]]:
    """The records of each process, as the library would upload them.

    A file is a header of 7 bytes and blocks of 32 KiB with pieces of records: checksum (4), length (2), kind (1), data;
    kinds are 1 whole, 2 first, 3 middle, 4 last.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        data, at, records, pieces = path.read_bytes(), 7, [], b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            pieces += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                records.append(Record.FromString(pieces))
                pieces = b""
        found.append(records)
    return found


def logged(folder: Path) -> list[list[dict[str, Any]]]:
    """What each process logged of each generation."""
    return [
        [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        for records in sent(folder)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two generations that went on to four."""
    pytest.importorskip("wandb")
    place = tmp_path_factory.mktemp("tracked") / "RUN_0"
    said = tracked(place, 2) + tracked(place, 4)
    assert said == ""
    return place


def test_each_generation_is_logged_once_under_one_run(folder: Path) -> None:
    first, second = logged(folder)
    assert [one["generation"] for one in first] == [0, 1, 2]
    assert [one["generation"] for one in second] == [3, 4]
    runs = {path.name for path in (folder / "wandb").glob("offline-run-*/run-*.wandb")}
    assert runs == {f"run-{json.loads((folder / 'wandb.json').read_bytes())['id']}.wandb"}


def test_generations_that_nobody_told_of_are_logged_later(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "RUN_0", symlinks=True)
    shutil.rmtree(place / "wandb")
    known = json.loads((place / "wandb.json").read_bytes())
    (place / "wandb.json").write_text(json.dumps({**known, "logged": 1}))  # as by a process that was killed
    tracked(place, 4)
    assert [[one["generation"] for one in steps] for steps in logged(place)] == [[2, 3, 4]]


def test_what_is_logged_is_what_the_folder_has(folder: Path) -> None:
    steps = [step for process in logged(folder) for step in process]
    for step, stats in zip(steps, read(folder).stats, strict=True):
        assert step["mean_fitness"] == pytest.approx(stats.mean)
        assert step["max_fitness"] == pytest.approx(stats.best)
        assert step["best_task_prompts"] == "\n\n".join(stats.best_unit.task_prompts)
        assert {name: step[f"operators/{name}/tried"] for name in stats.operators} == {
            name: one.tried for name, one in stats.operators.items()
        }


def test_no_row_no_key_and_nothing_of_the_machine_is_sent(folder: Path) -> None:
    contexts = [one.unit.contexts for kept in read(folder).generations for one in kept.population]
    assert any(contexts), "no unit shows workings, which are rows"
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        content = path.read_bytes()
        assert b"mean_fitness" in content
        for word in ("Say 1", SECRET, "ffffffff", "tracked.py", str(folder)):
            assert word.encode() not in content, word
    runs = [record.run for records in sent(folder) for record in records if record.HasField("run")]
    assert runs
    assert {(run.host, run.git.remote_url, run.display_name) for run in runs} == {("shoal", "", "toy RUN_0")}
    assert not list((folder / "wandb").glob("offline-run-*/files/*"))


def test_workings_are_not_among_the_figures(folder: Path) -> None:
    for stats in read(folder).stats:
        said = json.dumps(figures(stats))
        assert "Say " not in said


def test_a_damaged_id_is_named(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(CorruptStore, match=r"wandb\.json"):
        Tracker(tmp_path, "prompts", "toy", Settings())


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"pip install 'shoal\[wandb\]'"):
        Tracker(tmp_path, "prompts", "toy", Settings())
