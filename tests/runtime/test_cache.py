"""A draw on disk is the same draw in any order, after any crash; a damaged file is an error, never an answer."""

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
from pathlib import Path

import pytest
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import CorruptStore, ModelError, ServerError, StoreError
from shoal.runtime.cache import Cached, DrawCache
from shoal.runtime.concurrency import map_bounded
from shoal.runtime.model import sample
from shoal.runtime.types import Completion, Request, Usage


def cached(path: Path, name: str = "scripted") -> tuple[BaseModel, ScriptedBackend]:
    backend = ScriptedBackend(lambda request: f"draw {request.sample}", name=name)
    return BaseModel(backend, cache=DrawCache(path), retry=AT_ONCE), backend


def test_eight_after_five_costs_three(tmp_path: Path) -> None:
    request = Request.of("Q?", temperature=1.0)
    model, backend = cached(tmp_path / "c")
    run(sample(model, request, 5))
    again, second = cached(tmp_path / "c")
    texts = [c.text for c in run(sample(again, request, 8))]
    assert texts == [f"draw ({i},)" for i in range(8)]
    assert len(backend.requests) == 5
    assert [r.sample for r in second.requests] == [(5,), (6,), (7,)]


def test_a_cached_draw_costs_nothing_and_says_so(tmp_path: Path) -> None:
    model, _ = cached(tmp_path / "c")
    first, second = run(model("one two")), run(model("one two"))
    assert (first.usage.calls, first.usage.cached_calls) == (1, 0)
    assert second.usage == first.usage.as_cached()
    assert second.usage.cached_tokens == first.usage.total_tokens
    assert first.text == second.text


@pytest.mark.parametrize(
    "other",
    [
        Request.of("Q?", temperature=0.5),
        Request.of("Q?", system="Be brief."),
        Request.of("Q?").draw(0),
        Request(prompt="Q?"),
        Request.of("Q?", json_schema={"type": "object"}),
        Request.of("Q?", json_schema={"type": "string"}),
    ],
)
def test_whatever_makes_another_request_makes_another_draw(tmp_path: Path, other: Request) -> None:
    model, backend = cached(tmp_path / "c")
    run(model(Request.of("Q?")))
    run(model(other))
    assert len(backend.requests) == 2


def test_the_model_is_part_of_the_key(tmp_path: Path) -> None:
    run(cached(tmp_path / "c", "one")[0]("Q?"))
    other, backend = cached(tmp_path / "c", "two")
    run(other("Q?"))
    assert len(backend.requests) == 1


def test_nested_draws_do_not_collide(tmp_path: Path) -> None:
    model, backend = cached(tmp_path / "c")
    request = Request.of("Q?")
    run(sample(model, request.draw(0), 3))
    run(sample(model, request.draw(1), 3))
    run(sample(model, request, 3))
    assert len({r.sample for r in backend.requests}) == 9


def test_errors_are_not_kept(tmp_path: Path) -> None:
    answers = iter([ServerError("down", retryable=False), "up"])

    def script(_: Request) -> str:
        answer = next(answers)
        if isinstance(answer, ModelError):
            raise answer
        return answer

    model = BaseModel(ScriptedBackend(script), cache=DrawCache(tmp_path / "c"))
    with pytest.raises(ServerError):
        run(model("Q?"))
    assert run(model("Q?")).text == "up"


def test_what_a_filter_cut_is_not_kept(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda _: Completion("I can", "content_filter"))
    model = BaseModel(backend, cache=DrawCache(tmp_path / "c"))
    run(model("Q?"))
    run(model("Q?"))
    assert len(backend.requests) == 2


def _fill(path: Path, start: int) -> None:
    model, _ = cached(path)
    run(sample(model, Request.of("Q?"), 200, start=start))


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(tmp_path / "c", 100 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert DrawCache(tmp_path / "c").counts() == (1, 400)


def _write_until_killed(path: Path, ready: "multiprocessing.Queue[int]") -> None:
    model, _ = cached(path)
    for start in range(0, 100_000, 10):
        run(sample(model, Request.of("Q?"), 10, start=start))
        ready.put(start + 10)


def test_what_was_seen_survives_a_kill(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    worker = context.Process(target=_write_until_killed, args=(tmp_path / "c", ready))
    worker.start()
    seen = [ready.get() for _ in range(20)][-1]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    model, backend = cached(tmp_path / "c")
    run(sample(model, Request.of("Q?"), seen))
    assert backend.requests == []


@pytest.mark.parametrize("content", [b"not a database at all, but text " * 200, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_foreign_or_broken_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(CorruptStore, match="c: damaged"):
        DrawCache(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "c") as theirs:
        theirs.execute("CREATE TABLE notes (text)")
    with pytest.raises(CorruptStore, match="another program's database"):
        DrawCache(tmp_path / "c")


def test_a_flipped_bit_is_never_an_answer(tmp_path: Path) -> None:
    """Every damage of the file ends as the right draw, a new draw or an error, and never as a wrong text."""
    request = Request.of("Q?")
    model, _ = cached(tmp_path / "c")
    run(sample(model, request, 20))
    assert model.cache is not None
    model.cache.store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    model.cache.close()
    content = (tmp_path / "c").read_bytes()
    right = [f"draw ({i},)" for i in range(20)]
    chance = random.Random(1)
    for trial in range(60):
        damaged = bytearray(content)
        damaged[chance.randrange(100, len(damaged))] ^= 1 << chance.randrange(8)
        path = tmp_path / f"c{trial}"
        path.write_bytes(damaged)
        try:
            copy, _ = cached(path)
            texts = [c.text for c in run(sample(copy, request, 20))]
        except StoreError:
            continue
        assert texts == right


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file/draws: cannot be used"):
        DrawCache(tmp_path / "file" / "draws")


def test_a_cache_that_fills_its_disk_is_switched_off_and_the_answer_kept(tmp_path: Path) -> None:
    model, backend = cached(tmp_path / "c")
    assert model.cache is not None
    model.cache.store._writer.failure = StoreError("c: database or disk is full")
    with pytest.warns(UserWarning, match="the cache is off from here on: c: database or disk is full"):
        assert run(model("Q?")).text == "draw ()"
    assert run(model("Q?")).text == "draw ()"
    assert len(backend.requests) == 2


def test_an_equal_draw_is_asked_once_also_while_the_first_is_being_kept(tmp_path: Path) -> None:
    """It is then neither under way nor on disk."""
    model, backend = cached(tmp_path / "c")

    async def program() -> None:
        async for _ in map_bounded(model, (Request.of(f"Q{i % 20}") for i in range(600)), 7):
            pass
        async for _ in map_bounded(model, (Request.of(f"P{i // 20}") for i in range(600)), 7):
            pass

    run(program())
    assert len(backend.requests) == 50


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    DrawCache(tmp_path / "new" / "c")
    assert (tmp_path / "new" / "c").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_draw_whose_caller_is_cancelled_as_it_is_written_is_not_paid_again(tmp_path: Path) -> None:
    asked: list[Request] = []

    async def paid(request: Request) -> Completion:
        asked.append(request)
        return Completion("x", usage=Usage(calls=1))

    async def main() -> Completion:
        model, request = Cached(paid, DrawCache(tmp_path / "c"), "m"), Request.of("Q?")
        caller = asyncio.create_task(model(request))
        while not asked:
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        return await model(request)

    assert run(main()).usage.cached_calls == len(asked) == 1
