"""What a traced run keeps: each row's tree with its result, whatever stops the run; nothing where it is off."""

import sqlite3
from pathlib import Path

import pytest
from tests.batch.test_run import OPTIONS, Job, data
from tests.scripting import run

from shoal.batch.directory import RunDirectory
from shoal.batch.journal import Journal
from shoal.batch.rows import Input, Row
from shoal.batch.runner import BatchRun
from shoal.batch.traced import TracedRow, TracedRun
from shoal.errors import AuthenticationFailed, CorruptStore, UsageError
from shoal.runtime import trace
from shoal.runtime.budget import Budget
from shoal.runtime.types import Completion, Request
from shoal.traces.data import Failure


async def right(completion: Completion, _: Row) -> tuple[str | None, float]:
    return completion.answer, 1.0


class TracedJob(Job):
    """A job whose rows are traced, or not."""

    traced = True

    def __call__(self, budget: Budget | None = None, options: object = OPTIONS) -> BatchRun:
        with RunDirectory(self.tmp_path / "run", OPTIONS, self.rows) as place:
            batch = BatchRun(
                place,
                self.rows,
                model="m",
                technique=None,
                window=self.window,
                judge=right,
            )
            batch.traced = self.traced
            run(batch.execute(lambda row: self.model(Request.of(row["q"])), budget))
        return batch


def rows_of(tmp_path: Path) -> list[TracedRow]:
    with TracedRun(tmp_path / "run") as kept:
        return list(kept.rows())


def shown(row: TracedRow) -> list[str]:
    """What a row's calls said."""
    assert row.trace is not None
    return [call.completion.text if call.completion else "" for call in row.trace.calls()]


def test_each_row_has_its_tree(tmp_path: Path) -> None:
    job = TracedJob(tmp_path, data(tmp_path, "a", "b"), lambda r: f"{r.text}{r.sample}", technique=True)
    job()
    first, second = rows_of(tmp_path)
    assert shown(first) == ["a(0,)", "a(1,)", "a(2,)"]
    assert shown(second) == ["b(0,)", "b(1,)", "b(2,)"]
    assert first.trace is not None
    assert (first.trace.name, first.trace.arguments, first.trace.result) == ("row 0", {"q": "a"}, first.record.output)
    assert first.trace.children[0].name == "self_consistency(n=3)"
    assert first.trace.began > 1e9


def test_without_it_nothing_is_recorded(tmp_path: Path) -> None:
    seen: list[object] = []

    def script(request: Request) -> str:
        seen.append(trace.current.get())
        return "x"

    job = TracedJob(tmp_path, data(tmp_path, "a"), script)
    job.traced = False
    job()
    assert seen == [None]
    tables = sqlite3.connect(tmp_path / "run" / "journal.sqlite").execute("SELECT name FROM sqlite_master").fetchall()
    assert ("trace",) not in tables
    with pytest.raises(UsageError, match="run it with --trace"):
        TracedRun(tmp_path / "run")


def test_a_journal_that_knew_no_traces_goes_on_with_them(tmp_path: Path) -> None:
    first = TracedJob(tmp_path, data(tmp_path, "a"), lambda r: "x")
    first.traced = False
    first()
    TracedJob(tmp_path, data(tmp_path, "a", "b"), lambda r: "y")()
    before, after = rows_of(tmp_path)
    assert before.trace is None
    assert shown(after) == ["y"]
    with TracedRun(tmp_path / "run") as kept, pytest.raises(UsageError, match="finished without --trace"):
        kept.row("0")


def test_resumed_rows_keep_their_trace(tmp_path: Path) -> None:
    rows = data(tmp_path, *"abcd")
    TracedJob(tmp_path, rows, lambda r: "first", window=1)(Budget(calls=2))
    kept = rows_of(tmp_path)
    assert [row.id for row in kept] == ["0", "1"]
    TracedJob(tmp_path, rows, lambda r: "second", window=1)()
    resumed = rows_of(tmp_path)
    assert resumed[:2] == kept
    assert [shown(row) for row in resumed] == [["first"], ["first"], ["second"], ["second"]]


def broken(request: Request) -> str:
    raise AuthenticationFailed("wrong key", endpoint="lab")


def test_a_failed_row_has_a_tree_with_its_error(tmp_path: Path) -> None:
    TracedJob(tmp_path, data(tmp_path, "a"), broken)()
    (row,) = rows_of(tmp_path)
    assert row.trace is not None
    assert row.trace.error == row.trace.calls()[0].error == Failure("AuthenticationFailed", "lab: wrong key")


@pytest.mark.parametrize("traced", [True, False])
def test_a_row_tried_again_has_the_trace_of_that_try(tmp_path: Path, traced: bool) -> None:
    rows = data(tmp_path, "a")
    TracedJob(tmp_path, rows, broken)()
    again = TracedJob(tmp_path, rows, lambda r: "mended")
    again.traced = traced
    again()
    (row,) = rows_of(tmp_path)
    assert (shown(row) if traced else row.trace) == (["mended"] if traced else None)


def test_a_damaged_trace_is_noticed(tmp_path: Path) -> None:
    TracedJob(tmp_path, data(tmp_path, "a"), lambda r: "x")()
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as database:
        database.execute("UPDATE trace SET value = CAST(substr(value, 2) AS BLOB)")
    database.close()
    with pytest.raises(CorruptStore, match="the trace of row 0 is damaged"):
        rows_of(tmp_path)


def test_rows_are_read_while_the_run_is_at_work(tmp_path: Path) -> None:
    rows = data(tmp_path, "a", "b")
    TracedJob(tmp_path, rows, lambda r: "x")()
    with RunDirectory(tmp_path / "run", OPTIONS, rows):
        assert len(rows_of(tmp_path)) == 2


def named(tmp_path: Path, *ids: str) -> Input:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"id": "{id_}", "q": "{id_}"}}\n' for id_ in ids))
    return Input(path)


def test_a_row_is_found_by_id_and_by_number(tmp_path: Path) -> None:
    TracedJob(tmp_path, named(tmp_path, "train", "plane", "twin", "twin"), lambda r: f"on {r.text}")()
    with TracedRun(tmp_path / "run") as kept:
        assert shown(kept.row("plane")) == ["on plane"]
        assert kept.row("#1").id == "plane"
        with pytest.raises(UsageError, match="did you mean train"):
            kept.row("trian")
        with pytest.raises(UsageError, match="2 rows have the id 'twin'; name one by its number: '#2', '#3'"):
            kept.row("twin")


def test_among_many_rows_an_unknown_id_is_not_answered_with_all(tmp_path: Path) -> None:
    TracedJob(tmp_path, data(tmp_path, *map(str, range(30))), lambda r: "x")()
    with TracedRun(tmp_path / "run") as kept, pytest.raises(UsageError, match=r"`shoal trace .*` lists them"):
        kept.row("zebra")


def test_a_place_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run directory"):
        TracedRun(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not a run directory"):
        TracedRun(tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    TracedJob(tmp_path, data(tmp_path, "a"), lambda r: "x")()
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as database:
        database.execute("UPDATE about SET version = 99")
    database.close()
    with pytest.raises(CorruptStore, match="expected"):
        Journal(tmp_path / "run" / "journal.sqlite")
