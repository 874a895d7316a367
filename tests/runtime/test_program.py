"""Programs: lazy, repeatable, composable values whose draws are named by where they are asked."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.scripting import AT_ONCE, run, scripted

import shoal
from shoal import llm
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import NotCached, ServerError, UsageError
from shoal.runtime.cache import DrawCache
from shoal.runtime.limits import Limits
from shoal.runtime.types import Request


def echo() -> tuple[BaseModel, ScriptedBackend]:
    """Answers with the prompt and the draw's name."""
    return scripted(lambda request: f"{request.text}{list(request.sample) or ''}")


@shoal.program
async def twice(text: str) -> str:
    first = await llm.generate_text(text)
    return await llm.generate_text(f"<{first}>")


def test_a_program_is_lazy_and_every_run_evaluates_anew() -> None:
    model, backend = echo()
    program = twice("a")
    assert backend.requests == []
    assert [shoal.run(program, model=model) for _ in range(2)] == ["<a>", "<a>"]
    assert len(backend.requests) == 4
    assert repr(program) == "twice('a')"


def test_arguments_that_are_programs_run_first_at_once_and_each_time() -> None:
    model, backend = scripted(lambda request: f"({request.text})", waves=True)

    @shoal.program
    async def both(left: str, *, right: str) -> str:
        return left + right

    program = both(twice("a"), right=twice("b"))
    for _ in range(2):
        assert shoal.run(program, model=model) == "(<(a)>)(<(b)>)"
    assert backend.batches == [2, 2, 2, 2]


def test_a_program_that_is_returned_is_run() -> None:
    @shoal.program
    async def tail() -> str:
        return twice("a")  # type: ignore[return-value]

    assert shoal.run(tail(), model=echo()[0]) == "<a>"


def test_methods_are_programs_too() -> None:
    class Asker:
        def __init__(self, mark: str) -> None:
            self.mark = mark

        @shoal.program
        async def ask(self, text: str) -> str:
            return await llm.generate_text(text + self.mark)

    assert shoal.run(shoal.parallel(Asker("?").ask("a"), Asker("!").ask("b")), model=echo()[0]) == ["a?", "b!"]


def test_only_async_functions_are_programs() -> None:
    with pytest.raises(UsageError, match="async def"):
        shoal.program(lambda: 1)  # type: ignore[arg-type,return-value]


def test_what_is_asked_again_is_another_draw_and_what_is_asked_at_once_is_the_same() -> None:
    @shoal.program
    async def asking() -> list[str]:
        first = await llm.generate_text("q")
        at_once = await shoal.parallel(llm.generate_text("q"), llm.generate_text("q"))
        return [first, *at_once, await llm.generate_text("q")]

    model, backend = echo()
    assert shoal.run(asking(), model=model) == ["q", "q[-1]", "q[-1]", "q[-2]"]
    assert len(backend.requests) == 3  # in flight the equal draws are one


def test_tasks_of_the_programs_own_count_for_themselves() -> None:
    @shoal.program
    async def asking() -> list[str]:
        return list(await asyncio.gather(llm.generate_text("q"), twice("q")))

    assert shoal.run(asking(), model=echo()[0]) == ["q", "<q>"]


def test_repeats_have_draws_of_their_own_however_they_nest() -> None:
    @shoal.program
    async def one_and_three() -> list[str]:
        return [await llm.generate_text("q"), *await shoal.repeat(llm.generate_text("q"), 3)]

    model, backend = echo()
    drawn = shoal.run(shoal.repeat(one_and_three(), 3), model=model)
    assert drawn[1] == ["q[1]", "q[1, 0]", "q[1, 1]", "q[1, 2]"]
    assert len({text for texts in drawn for text in texts}) == len(backend.requests) == 12


def test_a_repeat_that_is_run_again_in_a_program_draws_again() -> None:
    @shoal.program
    async def rounds() -> list[list[str]]:
        return [await shoal.repeat(llm.generate_text("q"), 2) for _ in range(2)]

    assert shoal.run(rounds(), model=echo()[0]) == [["q[0]", "q[1]"], ["q[0, -1]", "q[1, -1]"]]


def test_eight_after_five_cost_three(tmp_path: Path) -> None:
    model, backend = cached(tmp_path)
    assert len(shoal.run(shoal.repeat(twice("q"), 5), model=model)) == 5
    asked = len(backend.requests)
    assert len(shoal.run(shoal.repeat(twice("q"), 8), model=model)) == 8
    assert len(backend.requests) - asked == 6
    later = shoal.run(shoal.repeat(twice("q"), 3, start=5), model=model)
    assert later == shoal.run(shoal.repeat(twice("q"), 8), model=model)[5:]
    for n, start in ((0, 0), (1, -1)):
        with pytest.raises(UsageError):
            shoal.repeat(twice("q"), n, start=start)


def cached(path: Path) -> tuple[BaseModel, ScriptedBackend]:
    calls = iter(range(1000))
    backend = ScriptedBackend(lambda request: f"{next(calls)}")  # each call says something else
    return BaseModel(backend, cache=DrawCache(path / "cache.sqlite"), retry=AT_ONCE), backend


def test_neither_order_nor_a_new_process_permutes_samples(tmp_path: Path) -> None:
    model, _ = cached(tmp_path)
    gates = [asyncio.Event() for _ in range(4)]

    @shoal.program
    async def late(i: int) -> str:
        await gates[i].wait()
        return await llm.generate_text("q")

    @shoal.program
    async def backwards() -> list[str]:
        async def open_gates() -> None:
            for gate in reversed(gates):
                gate.set()
                await asyncio.sleep(0)

        opening = asyncio.ensure_future(open_gates())
        drawn = await shoal.parallel(*(shoal.repeat(late(i), 1, start=i) for i in range(4)))
        await opening
        return [texts[0] for texts in drawn]

    drawn = shoal.run(backwards(), model=model)
    assert drawn != sorted(drawn)  # the first was not asked first
    again, backend = cached(tmp_path)
    assert shoal.run(shoal.repeat(llm.generate_text("q"), 4), model=again) == drawn
    assert backend.requests == []


def test_replay_makes_only_the_missing_calls_or_none(tmp_path: Path) -> None:
    model, backend = cached(tmp_path)
    shoal.run(shoal.repeat(twice("q"), 4), model=model)
    assert len(backend.requests) == 8

    @shoal.program
    async def one_more() -> str:
        return await llm.generate_text("and " + await twice("q"))

    with pytest.raises(NotCached, match=r"not in the cache of scripted: draw \(0,\) of 'and 4'"):
        shoal.run(shoal.repeat(one_more(), 4), model=model, replay=True)
    shoal.run(shoal.repeat(one_more(), 4), model=model)
    assert len(backend.requests) == 12
    shoal.run(shoal.repeat(one_more(), 4), model=model, replay=True)
    assert len(backend.requests) == 12


def test_a_crash_in_a_flow_costs_only_what_was_not_done(tmp_path: Path) -> None:
    model, backend = cached(tmp_path)
    crash = True

    @shoal.program
    async def flow() -> str:
        first = await llm.generate_text("a")
        if crash and len(backend.requests) > 3:
            raise RuntimeError("crash")
        return await llm.generate_text(first)

    with pytest.raises(RuntimeError):
        shoal.run(shoal.repeat(flow(), 4), model=model)
    crash = False
    shoal.run(shoal.repeat(flow(), 4), model=model)
    assert len(backend.requests) == 8


def test_a_failing_branch_stops_its_siblings() -> None:
    stopped: list[str] = []

    @shoal.program
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")

    @shoal.program
    async def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        shoal.run(shoal.parallel(waits(), fails(), waits()))
    assert stopped == ["stopped", "stopped"]


def test_failures_may_stand_in_the_list() -> None:
    @shoal.program
    async def fails() -> None:
        raise ValueError("mine")

    model, _ = echo()
    for programs in ([fails(), twice("a")], iter([fails(), twice("a")])):
        arguments = programs if isinstance(programs, list) else [programs]
        results = shoal.run(shoal.parallel(*arguments, return_exceptions=True), model=model)
        assert isinstance(results[0], ValueError)
        assert results[1] == "<a>"


def test_an_iterable_is_taken_as_there_is_room() -> None:
    running = most = 0

    @shoal.program
    async def counted(i: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return i

    def source() -> Iterator[shoal.Program[int]]:
        for i in range(300):
            assert running <= 7
            yield counted(i)

    async def asynchronous() -> AsyncIterator[shoal.Program[int]]:
        for program in source():
            yield program

    for programs in (source(), asynchronous(), [counted(i) for i in range(300)]):
        assert shoal.run(shoal.parallel(programs, limit=7)) == list(range(300))
        assert most == 7  # kept from the first: a source that is asynchronous itself may be slower than the programs
    assert shoal.run(shoal.parallel()) == []
    with pytest.raises(UsageError, match="parallel runs programs, not int"):
        shoal.parallel(3)


def test_a_straggler_delays_only_itself() -> None:
    finished: list[int] = []
    release = asyncio.Event()

    @shoal.program
    async def item(i: int) -> None:
        if i == 0:
            await release.wait()
        finished.append(i)
        if len(finished) == 11:
            release.set()

    async def main() -> None:
        async for _ in shoal.stream(shoal.parallel((item(i) for i in range(12)), limit=4)):
            pass

    shoal.run(main())
    assert finished[-1] == 0


def test_what_began_first_is_served_first_to_its_end() -> None:
    backend = ScriptedBackend(lambda request: request.text)
    model = BaseModel(backend, limits=Limits(max_in_flight=1))
    shoal.run(shoal.parallel(*map(twice, "abcd")), model=model)
    asked = [request.text for request in backend.requests]
    assert asked.index("<a>") < asked.index("c") < asked.index("<c>")
    assert asked.index("<b>") < asked.index("d")


def test_time_runs_out_up_to_the_wire() -> None:
    cancelled: list[str] = []

    async def never(request: Request) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(request.text)
        return ""

    model, _ = scripted(never)
    with pytest.raises(TimeoutError):
        shoal.run(shoal.parallel(twice("a"), twice("b")), model=model, timeout=0.01)
    assert sorted(cancelled) == ["a", "b"]


def test_run_within_a_running_loop_and_within_a_program() -> None:
    model, _ = echo()

    async def notebook() -> str:
        return shoal.run(twice("a"), model=model)

    assert asyncio.run(notebook()) == "<a>"

    @shoal.program
    async def nested() -> str:
        return await twice(f"b{await twice('a')}")

    assert shoal.run(nested(), model=model) == "<b<a>>"


def test_pieces_come_with_their_place_and_the_result_last() -> None:
    model, _ = scripted(lambda request: f"say {request.text}")

    async def main() -> list[shoal.Piece]:
        with shoal.using(model):
            return [piece async for piece in shoal.stream(shoal.parallel(twice("a"), llm.generate_text("b")))]

    pieces = run(main())
    texts = {(p.index, p.step): "" for p in pieces if not p.finished}
    for piece in pieces:
        if not piece.finished:
            texts[piece.index, piece.step] += piece.text
    assert texts == {((0,), 0): "say a", ((0,), 1): "say <say a>", ((1,), 0): "say b"}
    assert [(p.index, p.result) for p in pieces if p.finished] == [
        ((1,), "say b"),
        ((0,), "say <say a>"),
        ((), ["say <say a>", "say b"]),
    ]


def test_a_stream_that_is_left_stops_the_program_and_one_that_fails_says_so() -> None:
    model, _ = scripted(lambda request: (_ for _ in ()).throw(ServerError("down", retryable=False)))

    async def main() -> None:
        with shoal.using(model), pytest.raises(ServerError, match="down"):
            async for _ in shoal.stream(twice("a")):
                pass

    run(main())


def test_the_real_error_reaches_everyone_who_waits_for_a_draw() -> None:
    def fails(request: Request) -> str:
        raise ServerError("down", retryable=False)

    model, backend = scripted(fails)
    results = shoal.run(shoal.parallel(twice("a"), twice("a"), return_exceptions=True), model=model)
    assert [str(error) for error in results] == ["down", "down"]
    assert len(backend.requests) == 1


def test_a_trace_shows_programs_with_arguments_and_results() -> None:
    result, root = shoal.run(twice("a"), model=echo()[0], trace=True)
    (span,) = root.children
    assert (result, span.name, span.arguments, span.result) == ("<a>", "twice", {"text": "a"}, "<a>")
    asked = [(child.kind, child.name, child.arguments, child.children[0].kind) for child in span.children]
    assert asked == [("builtin", "generate_text", {"prompt": prompt}, "call") for prompt in ("a", "<a>")]
    assert len(root.calls()) == 2


def test_raw_models_in_a_repeat_have_draws_of_their_own() -> None:
    model, _ = echo()

    @shoal.program
    async def raw() -> str:
        return (await model(Request.of("q").draw(7))).text

    assert shoal.run(shoal.repeat(raw(), 2)) == ["q[0, 7]", "q[1, 7]"]


def test_threads_and_loops_keep_their_own_counts() -> None:
    model, _ = echo()
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(shoal.run(twice("a"), model=model))) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert said == ["<a>"] * 3


def test_an_iterable_counts_what_it_asked_as_programs_do() -> None:
    @shoal.program
    async def asking(listed: bool, limit: int | None) -> str:
        programs = [llm.generate_text("q"), llm.generate_text("x")]
        await (shoal.parallel(programs, limit=limit) if listed else shoal.parallel(*programs, limit=limit))
        return await llm.generate_text("q")

    for listed in (True, False):
        for limit in (None, 1):
            assert shoal.run(asking(listed, limit), model=echo()[0]) == "q[-1]"


def test_a_repeat_and_texts_of_the_same_question_share_no_draw() -> None:
    @shoal.program
    async def both() -> list[str]:
        repeated = await shoal.repeat(llm.generate_text("q"), 2)
        return [*repeated, *await llm.generate_texts("q", 2)]

    assert shoal.run(both(), model=echo()[0]) == ["q[0]", "q[1]", "q[0, -1]", "q[1, -1]"]


def test_what_failed_beside_others_is_not_counted() -> None:
    @shoal.program
    async def fails() -> None:
        await llm.generate_text("q")
        raise ValueError

    @shoal.program
    async def again() -> str:
        with contextlib.suppress(ValueError):
            await shoal.parallel(fails(), fails())
        return await llm.generate_text("q")

    assert shoal.run(again(), model=echo()[0]) == "q"


def test_streams_and_plain_coroutines_count_too() -> None:
    async def plain() -> list[str]:
        first = await llm.generate_text("q")
        streamed = [piece.result async for piece in shoal.stream(llm.generate_text("q")) if piece.finished]
        return [first, *streamed, await llm.generate_text("q")]

    assert shoal.run(plain(), model=echo()[0]) == ["q", "q[-1]", "q[-2]"]


def test_an_iterator_is_taken_once_and_limits_are_checked() -> None:
    programs = shoal.parallel(twice(text) for text in "ab")
    assert shoal.run(programs, model=echo()[0]) == ["<a>", "<b>"]
    with pytest.raises(UsageError, match="taken by an earlier run"):
        shoal.run(programs, model=echo()[0])
    for limit in (0, -1):
        with pytest.raises(UsageError, match="at least one"):
            shoal.parallel([], limit=limit)
    with pytest.raises(UsageError, match="not function; call the function first"):
        shoal.repeat(twice, 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not function; call the function first"):
        shoal.parallel(twice, twice)


def test_a_failure_is_noticed_while_the_source_waits_and_closes_it() -> None:
    closed: list[bool] = []

    async def source() -> AsyncIterator[shoal.Program[None]]:
        try:
            yield fails()
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    @shoal.program
    async def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        shoal.run(shoal.parallel(source()), timeout=20)
    assert closed == [True]
