"""Rows in worker processes of our own: overlapping, killed, and ended."""

import os
import pickle
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.batch import shared
from shoal.batch.jobs import job_of
from shoal.batch.streaming import RowStream
from shoal.batch.workers import WorkerProcesses
from shoal.errors import EngineError, UsageError

SCRIPT = """
import asyncio, os, signal, time
from pathlib import Path

answered = 0

async def answer(request):
    global answered
    with open("asked", "a") as asked:
        asked.write(f"{os.getpid()} {request.text}\\n")
    while "slow" in request.text and answered < 8:  # until all others of this process are answered
        await asyncio.sleep(0.01)
    while "kill" in request.text:
        if Path("armed").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.01)
        if Path("disarmed").exists():
            break
    answered += 1
    return os.environ.get("CUDA_VISIBLE_DEVICES", "none") if "gpus" in request.text else f"{len(request.text)}"
"""
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def script(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)


@contextmanager
def workers(processes: int = 1, gpus: float = 0, model: str = "scripted/s.py:answer", **options: Any) -> Iterator[Any]:
    job = job_of("test", model, {"cache": False, **options}, pickle.dumps, processes)  # type: ignore[typeddict-item]
    stream = RowStream(job, partial(WorkerProcesses.opened, processes=processes, gpus=gpus))
    try:
        yield stream
    finally:
        stream.close()


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt": text} for text in texts]


def asked() -> list[list[str]]:
    return [line.split(" ", 1) for line in Path("asked").read_text().splitlines()] if Path("asked").exists() else []


def wait_until_asked(text: str, times: int = 1) -> int:
    """The process that was last asked it."""
    while len(found := [int(pid) for pid, told in asked() if told == text]) < times:
        pass
    return found[-1]


def test_batches_overlap_in_each_process() -> None:
    with workers() as stream:
        slow = stream.submit(rows("slow"))
        batches = [stream.submit(rows(f"{i} a", f"{i} b")) for i in range(4)]
        assert [record.output for batch in (*batches, slow) for record in batch.result(60)] == ["3"] * 8 + ["4"]
    assert len({pid for pid, _ in asked()}) == 1


def test_a_killed_process_is_started_again_and_asks_nothing_that_was_finished() -> None:
    with workers(2) as stream:
        stream.submit(rows("a", "b")).result(60)
        batch = stream.submit(rows("a", "b", "kill", "c"))
        victim = wait_until_asked("kill")
        wait_until_asked("c")
        os.kill(victim, signal.SIGKILL)
        wait_until_asked("kill", 2)
        Path("disarmed").touch()
        assert [record.output for record in batch.result(60)] == ["1", "1", "4", "1"]
    times = Counter(text for _, text in asked())
    assert (times["a"], times["b"], times["kill"]) == (1, 1, 2)
    assert not Path(f"/proc/{victim}").exists()


def test_rows_that_kill_every_process_are_an_error_and_no_endless_loop() -> None:
    Path("armed").touch()
    with workers() as stream:
        batch = stream.submit(rows("kill"))
        with pytest.raises(EngineError, match=r"4 worker processes have died \(return codes -9, -9, -9, -9\).*'kill'"):
            batch.result(60)
        assert stream.submit(rows("a")).result(60)[0].output == "1"
    assert len({pid for pid, _ in asked()}) == 5


def test_what_keeps_a_job_from_running_is_told() -> None:
    with workers(model="nobody/x") as stream, pytest.raises(UsageError, match="unknown model 'nobody/x'"):
        stream.submit(rows("a")).result(60)


def test_processes_end_with_their_stream_and_what_is_under_way_is_cancelled() -> None:
    with workers(2) as stream:
        waiting = stream.submit(rows("kill"))
        worker = wait_until_asked("kill")
    assert waiting.cancelled()
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize(
    ("seen", "gpus", "shown"),
    [("4,5,6,7", 2, {"4,5", "6,7"}), ("4,5", 0.5, {"4"}), (None, 1, {"0", "1"}), ("4,5", 0, {"4,5"})],
)
def test_each_process_sees_gpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, gpus: float, shown: set[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    with workers(2, gpus=gpus) as stream:
        batches = [stream.submit(rows(f"gpus {number}")) for number in range(2)]
        assert {batch.result(60)[0].output for batch in batches} == shown


def test_a_budget_is_shared_and_who_comes_for_another_spends_what_is_left() -> None:
    with workers(budget=shoal.Budget(calls=3)) as stream:
        stream.submit(rows("a", "b")).result(60)
        os.kill(wait_until_asked("a"), signal.SIGKILL)
        records = stream.submit(rows("a", "b", "c", "d")).result(60)
    assert [record.error and record.error.type for record in records].count("BudgetExceeded") == 1
    assert len(asked()) == 3


def test_a_stream_is_shared_by_all_who_run_the_same_job_until_none_does() -> None:
    job = job_of("test", "scripted/s.py:answer", {"cache": False}, pickle.dumps, 1)
    one, other = shared.take(job, lambda: RowStream(job)), shared.take(job, lambda: RowStream(job))
    assert one is other
    shared.give_back(job, 0.0)
    assert other.submit(rows("a")).result(60)[0].output == "1"
    shared.give_back(job, 0.0)
    other._thread.join(60)
    assert not other._thread.is_alive()
    assert not shared._streams
