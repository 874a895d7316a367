"""Techniques on models are models: they nest, trace, stream their answer and keep the conversation."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.scripting import run, scripted

from shoal.errors import ServerError, UsageError
from shoal.runtime.concurrency import gather, map_bounded
from shoal.runtime.model import Model, answer, apply, ask, sample, stream, then
from shoal.runtime.trace import tracing
from shoal.runtime.types import Completion, Delta, Json, Message, Request, Usage, sampling_params, total


async def twice(model: Model, request: Request, *, note: str = "") -> Completion:
    """Draft, then answer."""
    draft = await model(request)
    return await answer(model, then(request, draft.text, f"Again{note}."))


def test_a_technique_on_a_technique_is_a_model() -> None:
    model, backend = scripted(lambda r: f"{len(r.messages)} turns")
    nested = apply(twice, apply(twice, model, note="!"))
    assert run(nested("Q")).text == "5 turns"
    assert len(backend.requests) == 4
    assert repr(nested) == "twice@twice(note='!')@scripted"


def test_then_keeps_the_whole_conversation_and_the_draw() -> None:
    request = Request.of("Q", system="S", temperature=0.3).draw(4)
    after = then(request, "A", "More?", temperature=0.9)
    assert [(m.role, m.content) for m in after.messages] == [
        ("system", "S"),
        ("user", "Q"),
        ("assistant", "A"),
        ("user", "More?"),
    ]
    assert after.sample == (4,)
    assert after.params.temperature == 0.9


def test_ask_inherits_the_draw_and_nothing_else() -> None:
    side = ask(Request.of("Q", temperature=0.3).draw(4), "Is it so?")
    assert (side.text, side.sample, side.params.temperature) == ("Is it so?", (4,), None)


def test_sample_needs_a_number() -> None:
    model, _ = scripted(lambda r: "x")
    with pytest.raises(UsageError, match="n=0"):
        run(sample(model, Request.of("Q"), 0))


async def pieces(model: Model, question: str = "one two") -> list[Delta | Completion]:
    return [piece async for piece in stream(model, Request.of(question))]


def test_a_plain_model_streams() -> None:
    model, _ = scripted(lambda r: r.text)
    *deltas, last = run(pieces(model))
    assert [d.text for d in deltas if isinstance(d, Delta)] == ["one ", "two"]
    assert len(deltas) == 2
    assert isinstance(last, Completion)


def test_only_the_answering_call_streams() -> None:
    model, _ = scripted(lambda r: f"reply {len(r.messages)}")
    *deltas, last = run(pieces(apply(twice, model)))
    assert [d.text for d in deltas if isinstance(d, Delta)] == ["reply ", "3"]
    assert isinstance(last, Completion)
    assert last.text == "reply 3"


def test_an_inner_technique_streams_only_in_tail_position() -> None:
    model, _ = scripted(lambda r: f"reply {len(r.messages)}")
    deltas = [d.text for d in run(pieces(apply(twice, apply(twice, model)))) if isinstance(d, Delta)]
    assert deltas == ["reply ", "5"]


def test_what_does_not_stream_comes_as_one_delta() -> None:
    async def vote(model: Model, request: Request) -> Completion:
        return (await sample(model, request, 2))[0]

    model, _ = scripted(lambda r: "a b c")
    first, last = run(pieces(apply(vote, model)))
    assert first == Delta("a b c")
    assert isinstance(last, Completion)


def test_the_trace_is_a_tree_with_the_critical_path() -> None:
    model, _ = scripted(lambda r: "x y")

    async def main() -> None:
        with tracing() as root:
            await apply(twice, apply(twice, model))(Request.of("Q"))
        (outer,) = root.children
        assert [child.name for child in outer.children] == ["twice", "twice"]
        assert len(root.calls()) == 4
        assert len(root.critical_path()) == 4
        assert root.usage.calls == 4
        assert root.usage.completion_tokens == 8
        assert root.children[0].completion is not None

    run(main())


def test_parallel_calls_are_one_step_of_the_critical_path() -> None:
    async def vote(model: Model, request: Request) -> Completion:
        return (await sample(model, request, 5))[0]

    started: list[Request] = []

    async def slow(request: Request) -> str:
        started.append(request)
        while len(started) < 5:
            await asyncio.sleep(0)
        return "x"

    model, _ = scripted(slow)

    async def main() -> None:
        with tracing() as root:
            await apply(vote, model)("Q")
        assert len(root.calls()) == 5
        assert len(root.critical_path()) == 1

    run(main())


def test_a_failed_call_shows_in_the_trace() -> None:
    def broken(_: Request) -> str:
        raise ServerError("down", retryable=False)

    model, _ = scripted(broken)

    async def main() -> None:
        with pytest.raises(ServerError), tracing() as root:
            await model("Q")
        assert isinstance(root.calls()[0].error, ServerError)

    run(main())


def test_gather_keeps_order_and_raises_the_error_itself() -> None:
    gone: list[str] = []

    async def wait(name: str) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gone.append(name)
            raise
        return name

    async def fail() -> str:
        await asyncio.sleep(0)
        raise KeyError("mine")

    async def give(i: int) -> int:
        for _ in range(5 - i):
            await asyncio.sleep(0)
        return i

    assert run(gather(*(give(i) for i in range(5)))) == list(range(5))
    assert run(gather()) == []
    with pytest.raises(KeyError, match="mine"):
        run(gather(wait("a"), fail(), wait("b")))
    assert gone == ["a", "b"]


def test_map_bounded_holds_a_window_of_an_endless_source() -> None:
    running = most = taken = 0

    def source() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    async def work(i: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return i

    async def main() -> None:
        results = []
        async for result in map_bounded(work, source(), 7):  # type: ignore[arg-type]
            results.append(result)
            if len(results) == 100:
                break
        assert most == 7
        assert taken <= 100 + 14

    run(main())


def test_map_bounded_looks_at_an_item_as_often_however_many_run() -> None:
    looks = 0

    class Counted(asyncio.Task):  # type: ignore[type-arg]
        def add_done_callback(self, *args: Any, **kwargs: Any) -> None:
            nonlocal looks
            looks += 1
            super().add_done_callback(*args, **kwargs)

    async def work(i: int) -> int:
        for _ in range(i + 1):
            await asyncio.sleep(0)
        return i

    async def main() -> list[int]:
        asyncio.get_running_loop().set_task_factory(lambda loop, coro, **rest: Counted(coro, loop=loop, **rest))
        return [result async for result in map_bounded(work, range(200), 100)]

    results = run(main())
    assert sorted(results) == list(range(200))
    assert results[:100] == list(range(100))  # as they finish
    assert looks <= 400


def test_map_bounded_raises_what_an_item_or_the_source_raises_and_leaves_nothing_running() -> None:
    gone: list[int] = []

    async def work(i: int) -> int:
        try:
            if i == 2:
                raise KeyError("mine")
            await asyncio.Event().wait()
        finally:
            gone.append(i)
        return i

    async def broken() -> AsyncIterator[int]:
        yield 0
        raise KeyError("mine")

    async def main(items: Any) -> None:
        gone.clear()
        with pytest.raises(KeyError, match="mine"):
            async for _ in map_bounded(work, items, 3):
                pass

    run(main(range(9)))
    assert sorted(gone) == [0, 1, 2]
    run(main(broken()))
    assert gone == [0]


def test_requests_are_values() -> None:
    assert Request.of("Q", stop="\n") == Request.of("Q", stop=["\n"])
    assert hash(Request.of("Q")) == hash(Request.of("Q"))
    assert Json.of({"b": 1, "a": 2}) == Json.of({"a": 2, "b": 1})
    assert Json.of({"a": [1, None]}).value() == {"a": [1, None]}
    assert Request.of("Q").draw(1).draw(2).sample == (1, 2)
    assert Request.of("Q").draw(1).question() == Request.of("Q")
    assert sampling_params(json_schema={"type": "object"}).json_schema == Json.of({"type": "object"})
    image = Json.of([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What?"}])
    assert Request((Message("user", image),)).text == "What?"
    assert re.search("Q", repr(Request.of("Q")))


def test_usage_sums() -> None:
    parts = [Usage(1, 2, 1), Usage(3, 4, 1, estimated=True), Usage(cached_calls=1, cached_tokens=9)]
    assert total(parts) == Usage(4, 6, 2, 1, 9, True)
    assert total(parts).as_cached() == Usage(cached_calls=3, cached_tokens=19, estimated=True, cached_prompt_tokens=4)
