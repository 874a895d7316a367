"""Rows from any thread in any batches through one window; journals that processes leave to each other."""

import fcntl
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.batch import shelf as shelves
from shoal.batch.jobs import Job, Share, job_of
from shoal.batch.shelf import Shelf
from shoal.batch.streaming import RowStream
from shoal.errors import CorruptStore, RunError, StoreLocked, UsageError
from shoal.runtime.types import Usage

SCRIPT = """
import asyncio, os

counts, everybody = {"answered": 0}, asyncio.Event()

async def answer(request):
    with open("asked", "a") as asked:
        asked.write(f"{request.text} {request.sample}\\n")
    if "slow" in request.text:  # until all others are answered
        await asyncio.wait_for(everybody.wait(), 20)
    counts["answered"] += 1
    if counts["answered"] == 39:
        everybody.set()
    if "bad" in request.text:
        raise ValueError("no")
    return f"The answer is {len(request.text) + (request.sample or (0,))[0] % 3}."
"""
MODEL = "scripted/s.py:answer"


@pytest.fixture(autouse=True)
def script(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)


def asked() -> list[str]:
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


def job(subject: Any = MODEL, **options: Any) -> Job:
    return job_of("test", subject, {"cache": False, "run_dir": "kept", **options}, pickle.dumps, 1)  # type: ignore[typeddict-item]


@contextmanager
def stream(subject: Any = MODEL, **options: Any) -> Iterator[RowStream]:
    opened = RowStream(job(subject, **options))
    try:
        yield opened
    finally:
        opened.close()


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt": text} for text in texts]


@shoal.program
async def count_words(prompt: str, extra: int = 1) -> dict[str, Any]:
    told = await shoal.llm.completion(prompt)
    return {"words": len(told.text.split()), "extra": extra}


def test_results_are_those_of_map_and_a_failure_is_one_record() -> None:
    texts = ["a", "bb", "bad", "cccc"]
    model = "self_consistency(n=3)@" + MODEL
    with stream(model) as opened:
        records = opened.submit(rows(*texts)).result()
    wanted = shoal.map(model, texts)
    facts = [(r.output, r.answer, r.usage, r.error, r.technique, r.model) for r in records]
    assert facts == [(r.output, r.answer, r.usage, r.error, r.technique, r.model) for r in wanted]
    assert [r.error and r.error.type for r in records] == [None, None, "EngineError", None]
    assert len({r.id for r in records}) == 4


def test_a_slow_row_holds_up_no_other_batch() -> None:
    with stream() as opened:
        slow = opened.submit(rows("slow", "in its batch"))
        batches = [opened.submit(rows(*(f"{i} {j}" for j in range(2)))) for i in range(19)]
        for batch in batches:
            assert [r.error for r in batch.result(10)] == [None, None]
        assert [r.error for r in slow.result(10)] == [None, None]


def test_equal_rows_are_one_question_unless_a_column_tells_them_apart() -> None:
    with stream() as opened:
        same = opened.submit(rows("a", "a")).result() + opened.submit(rows("a")).result()
        assert same[0] == same[1] == same[2]
        assert asked() == ["a ()"]
    with stream(id_column="n", run_dir="named") as opened:
        one, other = opened.submit([{"prompt": "a", "n": 1}, {"prompt": "a", "n": 2}]).result()
    assert one.id != other.id
    assert (one.output, one.usage.calls + other.usage.calls) == (other.output, 1)


def test_what_is_finished_is_not_asked_again_and_what_failed_is() -> None:
    with stream() as opened:
        before = opened.submit(rows("a", "bad", "c")).result()
    with stream() as opened:
        again = opened.submit(rows("c", "a", "bad", "d")).result()
    assert (again[1], again[0]) == (before[0], before[2])
    assert sorted(asked()) == ["a ()", "bad ()", "bad ()", "c ()", "d ()"]


def test_another_of_this_process_that_is_still_open_is_read_too() -> None:
    with stream() as opened, stream() as other:
        opened.submit(rows("a")).result()
        other._rows.shelf._watch_until = 0
        other.submit(rows("a")).result()
        assert asked() == ["a ()"]
        assert other.submit(rows("b")).result()[0].error is None


def test_programs_run_with_their_model_and_return_what_they_like() -> None:
    with stream(count_words, model=MODEL) as opened:
        first, second, third = opened.submit([{"prompt": "a"}, {"prompt": "a", "extra": 2}, {"text": "b"}]).result()
    assert first.output == {"words": 4, "extra": 1}
    assert second.output == {"words": 4, "extra": 2}
    assert third.error is not None
    assert third.error.message == "count_words takes 'prompt'; the row has none: known: text"


def test_a_spent_budget_is_an_error_in_each_row_left_and_more_budget_goes_on() -> None:
    with stream(budget=shoal.Budget(calls=2)) as opened:
        records = opened.submit(rows("a", "b", "c", "d")).result()
    assert sorted(r.error.type if r.error else "" for r in records) == ["", "", "BudgetExceeded", "BudgetExceeded"]
    with stream() as opened:
        assert not any(r.error for r in opened.submit(rows("a", "b", "c", "d")).result())
    assert len(asked()) == 4


def test_a_budget_is_shared_among_workers() -> None:
    shared = job_of(
        "test", MODEL, {"budget": shoal.Budget(calls=10, tokens=7, seconds=2.5, dollars=6)}, pickle.dumps, 3
    )
    assert shared.budget == (3, 2, 2.5, 2, 3)
    with pytest.raises(UsageError, match="a budget of 2 calls cannot be shared among 3 workers"):
        job_of("test", MODEL, {"budget": shoal.Budget(calls=2)}, pickle.dumps, 3)


def test_a_worker_that_comes_for_a_killed_one_spends_what_that_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "_MOST_SEALED", 1)
    asked_once = job(budget=shoal.Budget(calls=3, tokens=1000))
    errors = []
    for text in ("a", "b", "b", "cd", "e"):
        opened = RowStream(asked_once)
        errors += [r.error and r.error.type for r in opened.submit(rows(*text)).result()]
        opened.close()
    assert errors[:3] == [None] * 3
    assert sorted(map(str, errors[3:5])) == ["BudgetExceeded", "None"]
    assert errors[5] == "BudgetExceeded"
    assert len(asked()) == 3
    with stream(budget=shoal.Budget(calls=1)) as opened:  # asked for anew
        assert opened.submit(rows("e")).result()[0].error is None


def test_a_worker_leaves_the_others_their_share() -> None:
    share = Share(5, None, None, 2.0, 3)
    for others, spent, calls, dollars in (
        (0, 0, 5, 2.0),
        (2, 0, 5, 2.0),
        (2, 3, 2, 0.5),
        (3, 3, 2, 0.5),
        (0, 12, 3, 0),
    ):
        left = share.budget(others, Usage(calls=spent), spent / 2)
        assert (left.calls, left.dollars) == (calls, dollars)
    assert share.budget(0, Usage(calls=1), None).dollars == 0  # nobody knows


def test_a_run_directory_of_another_job_is_refused() -> None:
    with stream() as opened:
        opened.submit(rows("a")).result()
    with pytest.raises(RunError, match=r"kept holds a run with template=.*; choose another run_dir, or remove it"):
        RowStream(job(template="Q: {prompt}"))
    Path("kept/config.json").write_text("[]")
    with pytest.raises(CorruptStore, match=r"move .*kept away"):
        RowStream(job())


def test_scores_see_the_whole_row() -> None:
    with stream(score=long_enough) as opened:
        (record,) = opened.submit([{"prompt": "a", "least": 3}]).result()
    assert record.score == 1.0


def long_enough(completion: shoal.Completion, row: dict[str, Any]) -> bool:
    return len(completion.text) >= row["least"]


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        (3, {}, "expected the spec of a model"),
        (count_words, {}, "model= is needed"),
        (count_words, {"model": "local", "template": "x"}, "template= is for models"),
        (MODEL, {"model": "local"}, "model= is for programs"),
        ("self_consistensy(n=3)@local", {}, "self_consistency"),
        (MODEL, {"target": "gold"}, "target= is for a scorer"),
        (MODEL, {"score": lambda completion, row: 1.0}, "cannot be sent to workers"),
        (MODEL, {"run_dir": "s3://bucket/run"}, "no address"),
        (MODEL, {"budgit": 3}, "budget"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_asked_for(subject: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job(subject, **options)


@pytest.mark.parametrize(
    ("model", "message"), [("nobody/x", "unknown model 'nobody/x'"), ("gguf/", "expected gguf/PATH")]
)
def test_an_unknown_model_is_told_by_the_worker(model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        RowStream(job(model))
    assert error.value.__context__ is None  # Ray shows all that it is told


def test_a_program_that_a_worker_cannot_import_is_told() -> None:
    gone = pickle.dumps((count_words, None)).replace(b"count_words", b"count_birds")
    with pytest.raises(UsageError, match=r"p cannot be loaded on a worker .*; its module must be importable there"):
        RowStream(Job(MODEL, gone, name="p"))


def test_the_journals_of_the_dead_are_sealed_and_many_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "_MOST_SEALED", 3)
    for i in range(6):
        with stream() as opened:
            opened.submit(rows(str(i), "bad" if i < 5 else "good")).result()
    Path("kept/worker-here-1").mkdir()  # died before it had begun
    with stream() as opened:
        assert len(list(Path("kept").glob("worker-*"))) == 3  # since the last union: two sealed, and its own
        before = len(asked())
        assert not any(r.error for r in opened.submit(rows(*map(str, range(6)), "good")).result())
    assert len(asked()) == before
    assert not Path("kept/worker-here-1").exists()


def test_nothing_is_united_while_somebody_may_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "_MOST_SEALED", 1)
    with stream() as first:
        for text in "abc":
            with stream() as opened:
                opened.submit(rows(text)).result()
        assert not Path("kept/journal.sqlite").exists()
        assert first.submit(rows("d")).result()[0].error is None
    Path("kept/journal.sqlite").touch()  # somebody was killed when it had begun to unite them
    with stream() as opened:
        opened.submit(rows(*"abcd")).result()
    assert asked() == ["a ()", "b ()", "c ()", "d ()"]


def test_journals_of_workers_are_merged_and_the_job_goes_on_from_there() -> None:
    for place, texts in (("kept", "ab"), ("kept", "bc"), ("elsewhere", "de")):
        with stream(run_dir=place) as opened:
            found = opened.submit(rows(*texts)).result()
    merged = shoal.merge(["kept", "elsewhere"], into="all")
    assert (merged.summary.finished, merged.missing, merged.differing_rows) == (5, 0, 0)
    records = [json.loads(line) for line in Path("all/output.jsonl").read_text().splitlines()]
    assert sorted(record["input"]["prompt"] for record in records) == list("abcde")
    assert {record.id for record in found} < {record["id"] for record in records}
    before = len(asked())
    with stream(run_dir="all") as opened:
        assert not any(r.error for r in opened.submit(rows(*"abcde")).result())
        assert len(asked()) == before
        opened.submit(rows("f")).result()
        with pytest.raises(StoreLocked, match=r"all/worker-.* is in use by process"):
            shoal.merge("all")
    again = shoal.merge("all")
    assert (again.path, again.summary.finished, len(again.runs)) == (Path("all"), 6, 1)
    with pytest.raises(RunError, match="with template="), stream(run_dir="other", template="Q: {prompt}"):
        shoal.merge(["all", "other"], into="both")


KILLED = """
import os, pickle, signal
from shoal.batch.jobs import job_of
from shoal.batch.streaming import RowStream

stream = RowStream(job_of("test", "scripted/s.py:answer", {"cache": False, "run_dir": "kept"}, pickle.dumps, 1))
stream.submit([{"prompt": "a"}]).result()
print(flush=True)
input()
"""


def test_another_process_is_read_while_it_lives_and_after_it_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with stream() as opened:
            assert opened.submit(rows("a")).result()[0].error is None
            other.send_signal(signal.SIGKILL)
            other.wait()
            opened.submit(rows("b")).result()  # sees that it has ended
            assert not opened._rows.shelf._at_work
            assert opened.submit(rows("a")).result()[0].error is None
    assert asked() == ["a ()", "b ()"]


def test_who_is_at_work_on_another_machine_is_read_once_it_has_ended() -> None:
    shelf = Shelf(Path("kept"), {})
    Path("kept/worker-elsewhere-1").mkdir()
    with Path("kept/worker-elsewhere-1/lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        mine = Shelf(Path("kept"), {})
        assert [journal.store.path.parent for journal in mine.others()] == [shelf._mine]
        mine.look()
        assert mine._at_work
    (Path("kept/worker-elsewhere-1") / "journal.sqlite").write_bytes(b"not a journal")
    with pytest.raises(CorruptStore, match="worker-elsewhere-1"):
        mine.look()
    mine.close()
    shelf.close()


def test_rows_under_way_end_with_their_stream() -> None:
    opened = RowStream(job())
    waiting = opened.submit(rows("slow"))
    opened.close()
    opened.close()
    assert waiting.cancelled()
