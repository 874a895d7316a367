"""Shards as processes, one of them killed: what is merged is the undivided run, and no draw is lost or paid twice."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROWS, SHARDS, LOST = 240, 4, 2
SCRIPT = """
import asyncio, os

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def answer(request):
    os.write(asked, f"{request.text} {request.sample}\\n".encode())
    await asyncio.sleep(0.001)
    return f"The answer is {len(request.text) + request.sample[0] % 3}." + " Because." * 20
"""
RUN = [
    "run",
    "data.jsonl",
    "-p",
    "{q}",
    "-m",
    "scripted/s.py:answer",
    "-t",
    "self_consistency(n=3)",
    "--trace",
    "--no-cache",
]


def started(*arguments: str, most_bytes: int | None = None) -> "subprocess.Popen[str]":
    """`shoal` as a process; its files may not grow beyond `most_bytes`, which to it is a full disk."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    known = dict(os.environ)
    if most_bytes is not None:  # the measurements would not find room either
        known = {name: value for name, value in known.items() if not name.startswith("COVERAGE_PROCESS")}
    known["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "shoal", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=known, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit)


def said(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, standard output, standard error, when it has ended."""
    out, err = process.communicate()
    return process.returncode, out, err


def shard(index: int, *more: str) -> "subprocess.Popen[str]":
    return started(*RUN, "--max-in-flight", "8", "--run-dir", "run", "--shard", f"{index}/{SHARDS}", "--quiet", *more)


def asked() -> list[str]:
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


def asked_of(index: int) -> list[str]:
    """The draws asked for rows of a shard."""
    return [line for line in asked() if int(line.split()[1]) % SHARDS == index]


def draws_in(journal: Path) -> int:
    reader = sqlite3.connect(journal)
    try:
        return int(reader.execute("SELECT count(*) FROM draw").fetchone()[0])
    finally:
        reader.close()


@pytest.fixture
def prepared() -> None:
    Path("s.py").write_text(SCRIPT)
    Path("data.jsonl").write_text("".join(json.dumps({"q": f"question {i:03}"}) + "\n" for i in range(ROWS)))


@pytest.mark.usefixtures("prepared")
@pytest.mark.timeout(300)
def test_a_shard_that_is_killed_is_run_again_and_the_whole_is_as_if_undivided() -> None:
    assert said(started(*RUN, "--run-dir", "whole", "--quiet"))[0] == 0
    Path("asked").unlink()
    processes = [shard(index) for index in range(SHARDS)]
    while len(asked_of(LOST)) < 60 and processes[LOST].poll() is None:
        pass
    processes[LOST].send_signal(signal.SIGKILL)
    codes = [said(process)[0] for process in processes]
    assert codes == [-signal.SIGKILL if index == LOST else 0 for index in range(SHARDS)]
    lost = Path("run", f"shard-{LOST}-of-{SHARDS}", "journal.sqlite")

    # What there is can be merged, and what is missing is told; the same bytes again when it has been done.
    code, out, _ = said(started("merge", "run", "--json"))
    assert code == 1
    early = json.loads(out)
    assert early["incomplete_shards"] == {f"{LOST}/{SHARDS}": early["missing"]}
    assert 0 < early["missing"] <= ROWS // SHARDS
    unsaved = len(set(asked_of(LOST))) - draws_in(lost)
    assert said(shard(LOST))[0] == 0
    draws = Counter(asked())
    assert len(draws) == 3 * ROWS
    assert draws.total() - len(draws) <= unsaved  # only what had not reached the journal was asked again

    folders = [f"run/shard-{index}-of-{SHARDS}" for index in (3, 1, 0, 2)]
    killed = started("merge", *folders, "--run-dir", "other")  # while it merges
    while not Path("other", "config.json").exists() and killed.poll() is None:
        pass
    killed.kill()
    said(killed)
    for arguments in (["run"], [*reversed(folders)], [*folders, "run", "--run-dir", "other"]):
        code, out, err = said(started("merge", *arguments, "--json"))
        assert (code, err) == (0, "")
        summary = json.loads(out)
        assert (summary["finished"], summary["calls"], summary["missing"]) == (ROWS, 3 * ROWS, 0)
        assert (summary["differing_rows"], summary["differing_draws"]) == (0, 0)
        assert Path(summary["output"]).read_bytes() == Path("whole/output.jsonl").read_bytes()

    # The merged run is the undivided command's own: nothing is left to do, and every row's tree is there.
    assert said(started(*RUN, "--run-dir", "run", "--quiet"))[0] == 0
    assert Counter(asked()) == draws
    assert Path("run/output.jsonl").read_bytes() == Path("whole/output.jsonl").read_bytes()
    code, out, _ = said(started("trace", "run", "--json"))
    assert (code, len(out.splitlines())) == (0, ROWS)


@pytest.mark.usefixtures("prepared")
def test_a_full_disk_leaves_the_run_as_it_was() -> None:
    assert said(shard(0))[0] == said(shard(1))[0] == 0
    code, _, err = said(started("merge", "run", most_bytes=100_000))
    assert code == 1
    assert "StoreError: run/journal.sqlite: " in err
    assert "MiB free on its disk" in err
    assert len(err.splitlines()) == 1
    assert {path.name for path in Path("run").iterdir() if path.is_file()} == {"lock"}
    code, out, _ = said(started("merge", "run", "--json"))
    assert (code, json.loads(out)["finished"]) == (1, ROWS // 2)
