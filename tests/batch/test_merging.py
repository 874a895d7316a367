"""Runs united: nothing lost, the same whatever the order, as often as one likes; and refused where they do not fit."""

import asyncio
import errno
import fcntl
import json
import random
import sqlite3
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

import shoal
from shoal.batch.directory import RunConfig, RunDirectory
from shoal.batch.journal import Journal
from shoal.batch.merging import Merged, merge
from shoal.batch.records import Record, RowUsage, encode
from shoal.batch.rows import Input, Shard
from shoal.errors import CorruptStore, RunError, StoreError, StoreLocked, UsageError
from shoal.runtime.trace import tracing
from shoal.runtime.types import Completion, Usage
from shoal.traces.data import Failure, Trace

ROWS = 6
CONFIG = RunConfig({"prompt": "{q}", "technique": None}, ROWS, "d" * 32, "data.jsonl")


class Work(msgspec.Struct):
    """What one worker did: rows by number, as (failed, text, traced), and draws by key, as (owner, paid, text)."""

    rows: dict[int, tuple[bool, str, bool]]
    draws: dict[bytes, tuple[int, bool, str]]


def record(number: int, failed: bool, text: str) -> Record:
    error = Failure("ServerError", text) if failed else None
    return Record(
        number, {"q": str(number)}, None if failed else text, None, "m", None, "stop", RowUsage(), error=error
    )


def tree() -> Trace:
    with tracing("row") as root:
        pass
    return Trace.of(root)


TREE = tree()


def written(path: Path, work: Work, config: RunConfig = CONFIG) -> Path:
    """A run directory in which that was done."""
    path.mkdir(parents=True)
    config.write(path)

    async def fill(journal: Journal) -> None:
        if any(traced for _, _, traced in work.rows.values()):
            await journal.keep_traces()
        for number, (failed, text, traced) in work.rows.items():
            trace = TREE if traced else None
            await journal.finish(number, record(number, failed, text), trace)
        for key, (owner, paid, text) in work.draws.items():
            await journal.keep_draw(
                key, owner, Completion(text, usage=Usage(calls=int(paid), cached_calls=int(not paid)))
            )

    journal = Journal(path / "journal.sqlite")
    asyncio.run(fill(journal))
    journal.close()
    return path


def contents(path: Path) -> tuple[Any, ...]:
    """All that a journal holds."""
    journal = Journal(path / "journal.sqlite", read_only=True)
    try:
        return list(journal.kept_rows()), list(journal.kept_draws()), (path / "output.jsonl").read_bytes()
    finally:
        journal.close()


WORKS = st.lists(
    st.builds(
        Work,
        st.dictionaries(st.integers(0, ROWS - 1), st.tuples(st.booleans(), st.sampled_from("xy"), st.booleans())),
        st.dictionaries(
            st.sampled_from([b"k1", b"k2", b"k3"]),
            st.tuples(st.integers(0, ROWS - 1), st.booleans(), st.sampled_from("xy")),
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORKS, st.randoms(use_true_random=False))
def test_a_merge_is_the_same_in_any_order_in_steps_and_again(works: list[Work], chance: random.Random) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder)
        runs = [written(place / f"run{i}", work) for i, work in enumerate(works)]
        whole = merge(runs, place / "whole")
        expected = contents(place / "whole")
        chance.shuffle(runs)
        for run in runs:
            merge(run, place / "steps")
        assert contents(place / "steps") == expected
        again = merge(runs, place / "whole")
        assert contents(place / "whole") == expected
        assert (again.differing_rows, again.differing_draws) == (whole.differing_rows, whole.differing_draws)
        check(works, place / "whole", whole)


def check(works: list[Work], path: Path, merged: Merged) -> None:
    """Against the rules as they are told to users."""
    rows, draws, output = contents(path)
    kept = {row.number: row for row in rows}
    assert kept.keys() == {number for work in works for number in work.rows}
    for number, row in kept.items():
        done = [work.rows[number] for work in works if number in work.rows]
        assert row.failed == all(failed for failed, _, _ in done)
        same = [
            traced for failed, text, traced in done if encode(record(number, failed, text)) == row.record
        ]  # those who came to the result that was taken
        assert same
        assert row.untraced == (not any(same))
    owned = {draw.key: draw for draw in draws}
    assert owned.keys() == {key for work in works for key in work.draws}
    for key, draw in owned.items():
        made = [work.draws[key] for work in works if key in work.draws]
        paid = bool(draw.completion.usage.calls)
        assert (draw.owner, paid, draw.completion.text) in made
        assert paid == any(paid for _, paid, _ in made)
    finished = {
        number: {work.rows[number][1] for work in works if number in work.rows and not work.rows[number][0]}
        for number in kept
    }
    assert merged.differing_rows == sum(len(texts) > 1 for texts in finished.values())
    said = {key: {work.draws[key][2] for work in works if key in work.draws} for key in owned}
    assert merged.differing_draws == sum(len(texts) > 1 for texts in said.values())
    assert merged.missing == ROWS - len(kept)
    assert merged.summary.rows == ROWS
    assert [json.loads(line)["id"] for line in output.splitlines()] == sorted(kept)


def shard(index: int, count: int, config: RunConfig = CONFIG) -> RunConfig:
    return structs.replace(config, shard=Shard(index, count))


def done(*numbers: int, text: str = "x") -> Work:
    return Work(dict.fromkeys(numbers, (False, text, False)), {})


def test_shards_are_found_in_their_directory_and_those_that_lack_rows_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    written(run / "shard-0-of-3", done(0, 3), shard(0, 3))
    written(run / "shard-1-of-3", done(1), shard(1, 3))
    (run / "shard-2-of-3").mkdir()  # it was lost before it began
    merged = shoal.merge(run)
    assert merged.path == run
    assert [path.name for path in merged.runs] == ["shard-0-of-3", "shard-1-of-3"]
    assert (merged.missing, merged.incomplete) == (3, {"1/3": 1, "2/3": 2})
    written(tmp_path / "again" / "shard-2-of-3", done(2, 5), shard(2, 3))
    merged = merge([run, tmp_path / "again"], run)
    assert merged.incomplete == {"1/3": 1}
    config = RunConfig.read(run)
    assert config is not None
    assert config == CONFIG  # a run as any other


def test_shards_of_several_numbers_and_whole_runs_fit_together(tmp_path: Path) -> None:
    runs = [
        written(tmp_path / "shard-1-of-4", done(1, 5), shard(1, 4)),
        written(tmp_path / "shard-0-of-2", done(0, 2, 4), shard(0, 2)),
        written(tmp_path / "whole", done(0, 1, 2)),
    ]
    outputs = set()
    for i, order in enumerate(permutations(runs)):
        merged = merge(order, tmp_path / f"into{i}")
        assert (merged.missing, merged.incomplete) == (1, {})
        outputs.add((merged.path / "output.jsonl").read_bytes())
    assert len(outputs) == 1


def test_rows_that_nobody_counted_are_those_that_there_are(tmp_path: Path) -> None:
    """Other workers may know neither how many rows there are nor which come before theirs."""
    unknown = structs.replace(CONFIG, rows=None, digest=None)
    written(tmp_path / "a", done(10_000_000, 3), unknown)
    written(tmp_path / "b", done(7), unknown)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "into")
    assert (merged.summary.rows, merged.summary.finished, merged.missing) == (3, 3, 0)


def test_rows_added_at_the_end_since_are_known_to_be_so(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    lines = [json.dumps({"q": i}) + "\n" for i in range(6)]

    def opened(path: Path, count: int) -> None:
        data.write_text("".join(lines[:count]))
        RunDirectory(path, CONFIG.options, Input(data)).__exit__()

    opened(tmp_path / "early", 4)
    opened(tmp_path / "late", 4)
    opened(tmp_path / "late", 6)
    opened(tmp_path / "other", 6)
    merge([tmp_path / "late", tmp_path / "early"], tmp_path / "both")
    merge([tmp_path / "late"], tmp_path / "into")
    merge([tmp_path / "early"], tmp_path / "into")  # what was known of the later one is known there
    for into in ("both", "into"):
        config = RunConfig.read(tmp_path / into)
        assert config is not None
        assert (config.rows, [rows for rows, _ in config.earlier]) == (6, [4])
    with pytest.raises(RunError, match="not known to begin with them"):
        merge([tmp_path / "other", tmp_path / "early"], tmp_path / "into2")
    assert not (tmp_path / "into2").exists()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (structs.replace(CONFIG, options={"prompt": "{q}?", "technique": None}), 'prompt="{q}?", '),
        (structs.replace(CONFIG, options=CONFIG.options | {"seed": 7}), "with seed=7, "),
        (structs.replace(CONFIG, digest="e" * 32), "other rows"),
        (structs.replace(CONFIG, rows=ROWS + 1, digest="e" * 32), "not known to begin with them"),
    ],
)
def test_what_is_of_another_run_is_named_and_nothing_is_made(tmp_path: Path, other: RunConfig, said: str) -> None:
    a, b = written(tmp_path / "a", done(1)), written(tmp_path / "b", done(2), other)
    for order in ([a, b], [b, a]):
        with pytest.raises(RunError, match=r"tmp|/a|/b") as error:
            merge(order, tmp_path / "into")
        assert said.split(",")[0] in str(error.value)
        assert not (tmp_path / "into").exists()
    written(tmp_path / "into", done(3), other)
    before = contents_of(tmp_path / "into")
    with pytest.raises(RunError):
        merge(a, tmp_path / "into")
    assert contents_of(tmp_path / "into") == before


def contents_of(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir() if each.name != "lock"}


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    written(tmp_path / "a", done(1))
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, said in (("nowhere", "no such run"), ("file", "is no directory"), ("empty", "holds no run")):
        with pytest.raises(UsageError, match=said):
            merge([tmp_path / "a", tmp_path / path], tmp_path / "into")
    with pytest.raises(UsageError, match="no run is given"):
        merge([], tmp_path / "into")
    written(tmp_path / "b", done(1))
    with pytest.raises(UsageError, match="--run-dir"):
        merge([tmp_path / "a", tmp_path / "b"])
    written(tmp_path / "c", done(1), shard(0, 2))
    with pytest.raises(RunError, match="holds shard 0/2 of a run"):
        merge([tmp_path / "a"], tmp_path / "c")
    (tmp_path / "b" / "config.json").unlink()
    with pytest.raises(CorruptStore, match=r"b: a journal without its config\.json"):
        merge(tmp_path / "b", tmp_path / "into")
    with pytest.raises(CorruptStore, match=r"b: a journal without its config\.json"):
        merge(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c" / "config.json").write_text('{"options": {}, "shard": {"index": 0, "count": 0}}')
    with pytest.raises(CorruptStore, match=r"config\.json: damaged"):
        merge(tmp_path / "c", tmp_path / "into")
    with pytest.raises(StoreError, match="cannot be used as a run directory"):
        merge(tmp_path / "a", tmp_path / "file" / "into")
    assert not (tmp_path / "into").exists()


def damage(path: Path, sql: str) -> None:
    with sqlite3.connect(path / "journal.sqlite") as database:
        database.execute(sql)
    database.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE row SET record = x'7b7d' WHERE number = 4", "the result of row 4 is damaged"),
        ("UPDATE trace SET value = x'00' WHERE number = 2", "the trace of row 2 is damaged"),
        ("UPDATE draw SET value = x'7b7d'", "a draw of row 4 is damaged"),
    ],
)
def test_a_damaged_journal_is_named_and_changes_nothing(tmp_path: Path, sql: str, said: str) -> None:
    work = Work({2: (False, "x", True), 4: (False, "x", False)}, {b"k": (4, True, "x")})
    good, bad = written(tmp_path / "a", done(1)), written(tmp_path / "b", work)
    merge(good, tmp_path / "into")
    before = contents(tmp_path / "into")
    damage(bad, sql)
    for into in (tmp_path / "into", tmp_path / "fresh"):
        with pytest.raises(CorruptStore, match=f"{said}; move {bad} away"):
            merge([good, bad], into)
    assert contents(tmp_path / "into") == before
    assert {each.name for each in (tmp_path / "fresh").iterdir()} == {"lock"}
    (bad / "journal.sqlite").write_bytes(b"not SQLite at all, but long enough to look at" * 100)
    with pytest.raises(CorruptStore, match=r"b/journal\.sqlite: damaged"):
        merge([good, bad], tmp_path / "into")
    assert contents(tmp_path / "into") == before
    (bad / "journal.sqlite").unlink()
    (bad / "journal.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"b/journal\.sqlite: cannot be used"):
        merge([good, bad], tmp_path / "into")
    assert contents(tmp_path / "into") == before


def locked(path: Path) -> Any:
    file = (path / "lock").open("a+")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", done(1)), written(tmp_path / "b", done(2))
    merge(a, tmp_path / "into")
    for path in (b, tmp_path / "into"):
        with locked(path), pytest.raises(StoreLocked, match=f"{path.name} is in use by process"):
            merge([a, b], tmp_path / "into")
    beginning = tmp_path / "shards" / "shard-0-of-2"
    beginning.mkdir(parents=True)
    with locked(beginning), pytest.raises(StoreLocked):  # it has a lock, and nothing else yet
        merge([a, tmp_path / "shards"], tmp_path / "into")
    assert merge([a, b], tmp_path / "into").summary.finished == 2


def test_a_run_that_ended_before_it_did_anything_is_empty(tmp_path: Path) -> None:
    for i, content in enumerate((None, b"")):
        run = tmp_path / f"run{i}"
        run.mkdir()
        CONFIG.write(run)
        if content is not None:
            (run / "journal.sqlite").write_bytes(content)
    (tmp_path / "run2").mkdir()
    CONFIG.write(tmp_path / "run2")
    with sqlite3.connect(tmp_path / "run2" / "journal.sqlite") as database:
        database.execute("PRAGMA journal_mode=WAL")
    database.close()
    merged = merge([tmp_path / f"run{i}" for i in range(3)], tmp_path / "into")
    assert (merged.summary.finished, merged.missing) == (0, ROWS)


def test_what_was_written_and_not_yet_moved_into_the_file_counts(tmp_path: Path) -> None:
    """A process that is killed leaves its last rows in the log beside the file."""
    run = written(tmp_path / "run", done(1))
    reader = sqlite3.connect(run / "journal.sqlite")  # while it is open the log stays
    reader.execute("SELECT * FROM row").fetchall()
    journal = Journal(run / "journal.sqlite")
    asyncio.run(journal.finish(2, record(2, False, "x")))
    journal.close()
    assert (run / "journal.sqlite-wal").stat().st_size
    assert merge(run, tmp_path / "into").summary.finished == 2
    reader.close()


def rows(path: Path) -> Iterable[str]:
    return [json.loads(line)["output"] for line in (path / "output.jsonl").read_bytes().splitlines()]


def test_a_finished_result_replaces_a_failed_one_in_the_directory_of_the_run(tmp_path: Path) -> None:
    written(tmp_path / "a", Work({0: (True, "down", False), 1: (False, "kept", False)}, {}))
    written(tmp_path / "b", done(0, text="mended"))
    assert merge(tmp_path / "a", tmp_path / "into").failures == {"ServerError": 1}
    merged = merge(tmp_path / "b", tmp_path / "into")
    assert rows(tmp_path / "into") == ["mended", "kept"]
    assert (merged.failures, merged.differing_rows) == ({}, 0)


def test_rows_whose_cost_alone_differs_have_the_same_result_and_what_was_paid_counts(tmp_path: Path) -> None:
    """A run whose draws came from the cache paid nothing for them."""
    paid, cached = written(tmp_path / "paid", Work({}, {})), written(tmp_path / "cached", Work({}, {}))
    for run, usage in ((paid, RowUsage(prompt_tokens=14, calls=1)), (cached, RowUsage(cached_calls=1))):
        journal = Journal(run / "journal.sqlite")
        asyncio.run(journal.finish(0, structs.replace(record(0, False, "yes"), usage=usage)))
        journal.close()
    for order, into in (([paid, cached], "one"), ([cached, paid], "two")):
        merged = merge(order, tmp_path / into)
        assert (merged.summary.finished, merged.differing_rows) == (1, 0)
        assert (merged.summary.calls, merged.summary.cached_calls) == (1, 0)


def test_what_travelled_by_a_batch_api_stands_in_the_output_as_any_other(tmp_path: Path) -> None:
    outputs = []
    for name, usage in (("live", RowUsage(14, 9, 0, 1)), ("waves", RowUsage(14, 9, 0, 1, 14, 9))):
        run = written(tmp_path / name, Work({}, {}))
        journal = Journal(run / "journal.sqlite")
        asyncio.run(journal.finish(0, structs.replace(record(0, False, "yes"), usage=usage)))
        journal.close()
        merged = merge(run, tmp_path / f"{name}-merged")
        outputs.append((merged.path / "output.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    assert merged.summary.batch_prompt_tokens == 14


def test_what_a_killed_merge_had_begun_to_write_is_removed_by_the_next(tmp_path: Path) -> None:
    into = merge(written(tmp_path / "a", done(1)), tmp_path / "into").path
    for name in (".output.jsonl.0a1b2c.partial", ".config.json.0a1b2c.partial", ".mine.jsonl.0a1b2c.partial"):
        (into / name).write_text("{")
    merge(tmp_path / "a", into)
    assert sorted(each.name for each in into.glob(".*")) == [".mine.jsonl.0a1b2c.partial"]


def test_a_file_system_without_locks_holds_copies_and_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, real = written(tmp_path / "bucket" / "a", done(1)), fcntl.flock
    (copy / "lock").write_text("7 on another")

    def flock(file: Any, how: int) -> None:
        if "bucket" in str(file.name):
            raise OSError(errno.ENOLCK, "No locks available")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert merge(copy, tmp_path / "into").summary.finished == 1
    with pytest.raises(StoreError, match=r"bucket/into: cannot be locked \(No locks available\); choose a directory"):
        merge(copy, tmp_path / "bucket" / "into")
