"""A run continues where it stood, notices what changed, and gives the same bytes as one that was never stopped."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, UnsetType, structs
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.scripted import Script, ScriptedBackend
from shoal.batch.directory import RunDirectory, atomic_writer
from shoal.batch.rows import Input, Row
from shoal.batch.runner import BatchRun
from shoal.errors import AuthenticationFailed, CorruptStore, RunError, StoreError, StoreLocked
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Completion, Request
from shoal.techniques.self_consistency import self_consistency

OPTIONS: dict[str, Any] = {"prompt": "{q}", "technique": None}


def data(tmp_path: Path, *questions: str) -> Input:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"q": question}) + "\n" for question in questions))
    return Input(path)


async def unrated(completion: Completion, _: Row) -> tuple[str | None, UnsetType]:
    return completion.answer, UNSET


class Job:
    """One process's share of a run, with a script of its own."""

    def __init__(
        self, tmp_path: Path, rows: Input, script: Script, *, technique: bool = False, window: int = 8
    ) -> None:
        self.backend = ScriptedBackend(script, max_n=64)
        self.model: Model = BaseModel(self.backend, retry=AT_ONCE)
        if technique:
            self.model = apply(self_consistency, self.model, n=3)
        self.tmp_path = tmp_path
        self.rows = rows
        self.window = window

    def __call__(self, budget: Budget | None = None, options: dict[str, Any] = OPTIONS) -> BatchRun:
        with RunDirectory(self.tmp_path / "run", options, self.rows) as place:
            batch = BatchRun(
                place,
                self.rows,
                model="m",
                technique=None,
                window=self.window,
                judge=unrated,
            )
            run(batch.execute(lambda row: self.model(Request.of(row["q"])), budget))
            batch.write_output(self.tmp_path / "run" / "output.jsonl")
            self.summary = batch.summary()
        return batch

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.tmp_path / "run" / "output.jsonl").read_text().splitlines()]


def test_records_are_in_input_order_whatever_finishes_first(tmp_path: Path) -> None:
    async def script(request: Request) -> str:
        for _ in range(10 if request.text == "0" else 1):
            await asyncio.sleep(0)
        return f"answer {request.text}"

    job = Job(tmp_path, data(tmp_path, *map(str, range(5))), script)
    job()
    assert [(r["id"], r["output"]) for r in job.records()] == [(i, f"answer {i}") for i in range(5)]
    assert job.records()[0] == {
        "id": 0,
        "input": {"q": "0"},
        "output": "answer 0",
        "answer": None,
        "model": "m",
        "technique": None,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cached_calls": 0, "calls": 1},
        "error": None,
    }


def test_further_answers_of_a_technique_are_in_the_record(tmp_path: Path) -> None:
    job = Job(tmp_path, data(tmp_path, "Q"), lambda request: f"plan {len(request.sample)}")

    async def several(request: Request) -> Completion:
        others = tuple([await asked(request.draw(*range(i))) for i in (1, 2)])
        return structs.replace(await asked(request), alternatives=others)

    asked, job.model = job.model, several
    job()
    assert job.records()[0]["output"] == "plan 0"
    assert job.records()[0]["alternatives"] == ["plan 1", "plan 2"]


def test_a_failed_row_is_a_record_and_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    def broken(request: Request) -> str:
        if request.text == "1":
            raise AuthenticationFailed("wrong key", endpoint="lab")
        if request.text == "2":
            raise ValueError("a bug of the script's")
        return "fine"

    rows = data(tmp_path, "0", "1", "2", "3")
    job = Job(tmp_path, rows, broken)
    batch = job()
    assert batch.errors == {"AuthenticationFailed": 1, "EngineError": 1}
    assert [r["error"] and r["error"]["type"] for r in job.records()] == [
        None,
        "AuthenticationFailed",
        "EngineError",
        None,
    ]
    assert job.records()[1]["error"]["message"] == "lab: wrong key"
    again = Job(tmp_path, rows, lambda r: "mended")
    again()
    assert [r["output"] for r in again.records()] == ["fine", "mended", "mended", "fine"]
    assert len(again.backend.requests) == 2


def test_a_budget_stops_the_run_and_a_larger_one_resumes_it(tmp_path: Path) -> None:
    rows = data(tmp_path, *map(str, range(10)))
    job = Job(tmp_path, rows, lambda r: "x", window=2)
    batch = job(Budget(calls=4))
    assert batch.stopped is not None
    assert len(job.backend.requests) == 4
    errors = [r["error"] for r in job.records()]
    assert errors[:4] == [None] * 4
    assert errors[4:] == [{"type": "BudgetExceeded", "message": "the budget of 4 calls is spent"}] * 6
    again = Job(tmp_path, rows, lambda r: "x")
    assert again(Budget(calls=6)).stopped is None
    assert [r["error"] for r in again.records()] == [None] * 10


def test_a_draw_is_not_asked_again_when_its_row_did_not_finish(tmp_path: Path) -> None:
    """Two of three draws done, then the budget is spent: resuming asks for the third, and counts all three."""
    rows = data(tmp_path, "a")
    first = Job(tmp_path, rows, lambda r: f"The answer is {r.sample[0] % 2}", technique=True)
    first.backend.capabilities = ScriptedBackend(lambda r: "").capabilities  # one draw a request
    first.model = apply(self_consistency, BaseModel(first.backend), n=3)
    first(Budget(calls=2))
    assert len(first.backend.requests) == 2
    second = Job(tmp_path, rows, lambda r: f"The answer is {r.sample[0] % 2}", technique=True)
    second()
    assert [r.sample for r in second.backend.requests] == [(2,)]
    whole = Job(tmp_path / "other", rows, lambda r: f"The answer is {r.sample[0] % 2}", technique=True)
    whole()
    assert second.records() == whole.records()
    assert second.records()[0]["usage"]["calls"] == 3


def test_equal_rows_share_a_draw_and_only_one_pays(tmp_path: Path) -> None:
    rows = data(tmp_path, "same", "same", "other")
    job = Job(tmp_path, rows, lambda r: "x")
    job()
    assert [(r["usage"]["calls"], r["usage"]["cached_calls"]) for r in job.records()] == [(1, 0), (0, 1), (1, 0)]
    assert len(job.backend.requests) == 2


@pytest.mark.parametrize(
    ("options", "questions", "said"),
    [
        ({"prompt": "{q}?", "technique": None}, ["a", "b"], 'prompt="{q}", now prompt="{q}?"'),
        ({"prompt": "{q}", "technique": "bon"}, ["a", "b"], 'technique=null, now technique="bon"'),
        (OPTIONS, ["a", "c"], "run of other rows"),
        (OPTIONS, ["a"], "run of 2 rows, now there are 1"),
    ],
)
def test_what_changed_is_named_and_nothing_is_mixed(
    tmp_path: Path, options: dict[str, Any], questions: list[str], said: str
) -> None:
    Job(tmp_path, data(tmp_path, "a", "b"), lambda r: "x")()
    before = (tmp_path / "run" / "output.jsonl").read_bytes()
    job = Job(tmp_path, data(tmp_path, *questions), lambda r: "y")
    with pytest.raises(RunError) as error:
        job(options=options)
    assert said in str(error.value)
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == before
    assert job.backend.requests == []


def test_rows_added_at_the_end_are_run_and_the_others_kept(tmp_path: Path) -> None:
    Job(tmp_path, data(tmp_path, "a", "b"), lambda r: "old")()
    job = Job(tmp_path, data(tmp_path, "a", "b", "c"), lambda r: "new")
    job()
    assert [r["output"] for r in job.records()] == ["old", "old", "new"]


def test_a_finished_run_gives_the_same_bytes_again(tmp_path: Path) -> None:
    rows = data(tmp_path, *map(str, range(30)))
    Job(tmp_path, rows, lambda r: "x")()
    before = (tmp_path / "run" / "output.jsonl").read_bytes()
    (tmp_path / "run" / "output.jsonl").unlink()
    again = Job(tmp_path, rows, lambda r: "y")
    again()
    assert again.backend.requests == []
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == before


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    rows = data(tmp_path, "a")
    with RunDirectory(tmp_path / "run", OPTIONS, rows), pytest.raises(StoreLocked, match="in use by process"):
        RunDirectory(tmp_path / "run", OPTIONS, rows)
    RunDirectory(tmp_path / "run", OPTIONS, rows).__exit__()


def test_a_damaged_journal_is_refused_and_never_read_as_a_result(tmp_path: Path) -> None:
    rows = data(tmp_path, *map(str, range(50)))
    Job(tmp_path, rows, lambda r: f"answer {r.text}")()
    right = (tmp_path / "run" / "output.jsonl").read_bytes()
    journal = tmp_path / "run" / "journal.sqlite"
    content = journal.read_bytes()
    refused = 0
    for at in range(4096, len(content), 1511):
        damaged = bytearray(content)
        damaged[at] ^= 0x11
        journal.write_bytes(damaged)
        try:
            Job(tmp_path, rows, lambda r: f"answer {r.text}")()
        except StoreError:
            refused += 1
        else:
            assert (tmp_path / "run" / "output.jsonl").read_bytes() == right
    assert refused


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    rows = data(tmp_path, "a")
    Job(tmp_path, rows, lambda r: "x")()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(CorruptStore, match=r"config\.json: damaged"):
        Job(tmp_path, rows, lambda r: "x")()


def test_a_run_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match="run: cannot be used as a run directory"):
        Job(tmp_path, data(tmp_path, "a"), lambda r: "x")()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_writer(path) as out:
        out.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_million_rows_are_held_in_a_window(tmp_path: Path) -> None:
    """At no time are more rows under way than the window allows."""
    most = 0
    rows = data(tmp_path, *map(str, range(500)))

    async def script(_: Request) -> Completion:
        nonlocal most
        most = max(most, batch_running())
        return Completion("x")

    job = Job(tmp_path, rows, script, window=5)
    progress: list[BatchRun] = []

    def batch_running() -> int:
        return progress[0].progress.running if progress else 0

    with RunDirectory(tmp_path / "run", OPTIONS, rows) as place:
        batch = BatchRun(place, rows, model="m", technique=None, window=5, judge=unrated)
        progress.append(batch)
        run(batch.execute(lambda row: job.model(Request.of(row["q"]))))
    assert most == 5
