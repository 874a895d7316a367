"""A server for the official SDKs: running on a loop of its own in another thread, as sync clients need it."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from tests.server.serving import serving

from shoal.backends import BaseModel
from shoal.runtime.model import Applied
from shoal.runtime.types import Completion, Json, Request


@contextmanager
def served(models: Mapping[str, BaseModel | Applied], **settings: Any) -> Iterator[str]:
    """The URL, without /v1, of a server of these models."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    url = ""

    async def main() -> None:
        nonlocal url
        async with serving(models, **settings) as client:
            url = client.url
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(main())
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    try:
        assert url, "the server did not start"
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def assistant(request: Request) -> str | Completion:
    """A model that calls a tool where it has one, says what the tool said, fills schemas, and counts its words."""
    last = request.messages[-1] if request.messages else None
    if last is not None and last.role == "tool":
        return f"It is {last.text}."
    if request.tools:
        name = request.tools[0].value()["function"]["name"]
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"city":"Oslo"}'}}
        return Completion("", "tool_calls", tool_calls=(Json.in_order(call),))
    if request.params.json_schema is not None:
        return msgspec.json.encode({"city": "Oslo", "degrees": 4}).decode()
    if request.params.max_tokens == 1:
        return Completion("One", "length")
    return f"You said: {request.text}"
