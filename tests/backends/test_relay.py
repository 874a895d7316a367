"""What passes through unread: fidelity, and that all faults of a server are typed errors or unseen retries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.backends.faulty_server import FaultyServer, faulty_server
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.openai import OpenAIBackend
from shoal.backends.relay import Relay
from shoal.errors import BadRequest, ConnectionFailed, MalformedResponse, ModelError, RateLimited, ServerError
from shoal.runtime import scope
from shoal.runtime.admission import Admission, Slot
from shoal.runtime.limits import Limits
from shoal.runtime.types import Request


def fields(text: str = "Hi", **others: Any) -> dict[str, Raw]:
    body = {"model": "theirs", "messages": [{"role": "user", "content": text}], **others}
    return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, Raw])


@asynccontextmanager
async def relay(limits: Limits | None = None, timeout: float = 600.0) -> AsyncIterator[tuple[Relay, FaultyServer]]:
    async with faulty_server() as server:
        backend = OpenAIBackend("m", base_url=server.base_url, timeout=timeout)
        try:
            yield Relay(backend, Admission(limits or Limits(), 64, AT_ONCE, backend.name)), server
        finally:
            await backend.aclose()


def posted(text: str, **others: Any) -> tuple[Any, FaultyServer]:
    async def main() -> tuple[Any, FaultyServer]:
        async with relay() as (through, server):
            return await through.post("chat/completions", fields(text, **others)), server

    return run(main())


def streamed(text: str) -> tuple[bytes, Any]:
    async def main() -> tuple[bytes, Any]:
        async with relay() as (through, _), through.stream("chat/completions", fields(text, stream=True)) as passing:
            return b"".join([chunk async for chunk in passing.chunks()]), passing.usage

    return run(main())


def test_all_of_a_request_but_the_models_name_goes_as_it_came() -> None:
    odd = {"tools": [{"type": "x"}], "made_up": {"b": 1, "a": [1.0, 1e3]}, "n": 2, "logprobs": True}
    passed, server = posted("Hi", **odd)
    assert server.requests[0].body == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **odd}
    assert len(msgspec.json.decode(passed.body)["choices"]) == 2
    assert passed.usage.calls == 2


def test_a_fault_that_passes_is_not_seen() -> None:
    passed, server = posted("[[500*2]]")
    assert b"answer" in passed.body
    assert len(server.requests) == 3


def test_a_stream_comes_byte_for_byte_and_is_counted() -> None:
    body, usage = streamed("Hi")
    assert body.rstrip().endswith(b"data: [DONE]")
    assert usage.completion_tokens > 0


@pytest.mark.parametrize(("fault", "kind"), [("400", BadRequest), ("500", ServerError), ("html", MalformedResponse)])
def test_faults_are_typed(fault: str, kind: type[ModelError]) -> None:
    with pytest.raises(kind):
        posted(f"[[{fault}]]")


def test_leaving_a_stream_hangs_up_and_frees_the_slot() -> None:
    async def main() -> int:
        async with relay(Limits(max_in_flight=1)) as (through, server):
            for _ in range(2):
                async with through.stream("chat/completions", fields("[[sse-stall]]", stream=True)) as passing:
                    async for _ in passing.chunks():
                        break
            await server.hung_up(2)
            return through.admission.in_flight

    assert run(main()) == 0


def test_requests_wait_for_their_turn_and_one_that_goes_away_gives_it_on() -> None:
    async def main() -> list[int]:
        admission, order = Admission(Limits(max_in_flight=1), 64, AT_ONCE, "m"), []
        held = admission.slot(0)
        await held.__aenter__()

        async def ask(i: int) -> None:
            async with admission.slot(0):
                order.append(i)

        tasks = [asyncio.ensure_future(ask(i)) for i in range(3)]
        await asyncio.sleep(0)
        await held.__aexit__(None, None, None)
        tasks[0].cancel()  # the turn is its own by now
        await asyncio.wait(tasks)
        return order

    assert run(main()) == [1, 2]


def test_a_cut_stream_is_an_error_after_what_came() -> None:
    got: list[bytes] = []

    async def main() -> None:
        asked = fields("[[sse-cut]]", stream=True)
        async with relay() as (through, _), through.stream("chat/completions", asked) as passing:
            async for chunk in passing.chunks():
                got.append(chunk)  # noqa: PERF401 - what came before the error is kept

    with pytest.raises((ConnectionFailed, MalformedResponse)):
        run(main())
    assert got


def test_those_that_pass_by_and_the_schedulers_draws_are_served_in_the_order_of_their_ages() -> None:
    order: list[int] = []

    async def main() -> None:
        async with faulty_server() as server:
            backend = OpenAIBackend("m", base_url=server.base_url, max_n=1)
            model = BaseModel(backend, limits=Limits(max_in_flight=1), retry=AT_ONCE)
            through = Relay(backend, model.scheduler.admission)

            async def passing(age: int) -> None:
                with scope.setting(scope.age, age):
                    await through.post("chat/completions", fields("Hi"))
                order.append(age)

            async def drawn(age: int) -> None:
                with scope.setting(scope.age, age):
                    await model(Request.of("Hi").draw(age))
                order.append(age)

            await asyncio.gather(*map(passing, range(1, 16, 2)), *map(drawn, range(2, 17, 2)))
            await backend.aclose()

    run(main())
    assert order[2:] == sorted(order)[2:]  # the first is sent before the others are there


def test_a_first_draw_forgets_no_request_that_passes_by() -> None:
    async def main() -> tuple[int, int]:
        async with faulty_server() as server:
            backend = OpenAIBackend("m", base_url=server.base_url)
            model = BaseModel(backend, limits=Limits(max_in_flight=4), retry=AT_ONCE)
            admission = model.scheduler.admission
            async with admission.slot(0):
                await model(Request.of("Hi"))
                during = admission.in_flight
            await backend.aclose()
            return during, admission.in_flight

    assert run(main()) == (1, 0)


def test_room_that_grows_again_is_used_by_all_who_wait() -> None:
    async def main() -> int:
        admission, most = Admission(Limits(max_in_flight=8), 64, AT_ONCE, "m"), 0
        entered = asyncio.Event()

        async def ask() -> None:
            nonlocal most
            async with admission.slot(0) as slot:
                most = max(most, admission.in_flight)
                if slot.ordinal == 1:
                    admission.failed(RateLimited("slow down"), slot, 0.0)
                    admission.failed(RateLimited("slow down"), Slot(2, 0), 0.0)
                    admission.failed(RateLimited("slow down"), Slot(3, 0), 0.0)
                    entered.set()
                for _ in range(50):  # long enough for others to come in
                    await asyncio.sleep(0)
                admission.succeeded()

        first = asyncio.ensure_future(ask())
        await entered.wait()
        most = 0
        await asyncio.gather(first, *(ask() for _ in range(60)))
        return most

    assert run(main()) >= 4


def test_a_parked_endpoint_refuses_all_who_wait_and_says_until_when() -> None:
    async def main() -> list[BaseException | None]:
        async with relay(Limits(max_in_flight=1)) as (through, server):
            asked = (through.post("chat/completions", fields("[[429-long*1]]")) for _ in range(4))
            refused = await asyncio.gather(*asked, return_exceptions=True)
            assert len(server.requests) == 1
            return [error for error in refused if isinstance(error, RateLimited)]

    errors = run(main())
    assert len(errors) == 4
    assert all(error.retry_after > 1e8 for error in errors)  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", ["sse-cut-in-event", "sse-ends-in-event", "sse-stall"])
def test_no_part_of_an_event_is_passed_on(fault: str) -> None:
    got: list[bytes] = []

    async def main() -> None:
        asked = fields(f"[[{fault}]]", stream=True)
        async with relay(timeout=0.5) as (through, _), through.stream("chat/completions", asked) as passing:
            async for chunk in passing.chunks():
                got.append(chunk)  # noqa: PERF401 - what came before the error is kept

    with pytest.raises(ModelError):
        run(main())
    assert got
    assert all(chunk.endswith(b"\n\n") for chunk in got)
    assert b"[DONE]" not in b"".join(got)


@pytest.mark.parametrize("fault", ["sse-no-finish*1", "reset-in-body*1", "sse-error*1", "sse-garbage*1"])
def test_a_stream_that_fails_before_anything_was_passed_on_is_tried_again(fault: str) -> None:
    body, _ = streamed(f"[[{fault}]]")
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b"fish") == 2


def test_a_server_that_does_not_stream_is_passed_on_as_events() -> None:
    body, usage = streamed("[[sse-json]]")
    event, end = (line.removeprefix(b"data: ") for line in body.splitlines() if line)
    (choice,) = msgspec.json.decode(event)["choices"]
    assert choice["delta"] == {"role": "assistant", "content": "answer 0.0"}
    assert (end, usage.completion_tokens) == (b"[DONE]", 10)


def test_a_stream_that_is_left_has_cost_what_came() -> None:
    async def main() -> int:
        async with (
            relay(timeout=5.0) as (through, _),
            through.stream("chat/completions", fields("[[sse-stall]]", stream=True)) as passing,
        ):
            async for _ in passing.chunks():
                break
            return passing.usage.total_tokens

    assert run(main()) > 0


def test_choices_with_indices_nobody_asked_for_are_no_reply() -> None:
    with pytest.raises(MalformedResponse):
        posted("[[wrong-index]]")
    with pytest.raises(MalformedResponse):
        posted("[[duplicate-index]]", n=2)
