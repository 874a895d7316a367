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

from shoal.backends.openai import OpenAIBackend
from shoal.backends.relay import Relay
from shoal.errors import BadRequest, ConnectionFailed, MalformedResponse, ModelError, ServerError
from shoal.runtime.admission import Admission
from shoal.runtime.limits import Limits


def fields(text: str = "Hi", **others: Any) -> dict[str, Raw]:
    body = {"model": "theirs", "messages": [{"role": "user", "content": text}], **others}
    return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, Raw])


@asynccontextmanager
async def relay(limits: Limits | None = None) -> AsyncIterator[tuple[Relay, FaultyServer]]:
    async with faulty_server() as server:
        backend = OpenAIBackend("m", base_url=server.base_url)
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
