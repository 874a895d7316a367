"""Servers on loopback that stand behind ours: one that remembers what it was sent, and one nobody should reach."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from shoal.backends.config import Config, Endpoint

Answer = Callable[["Asked"], web.Response]


class Asked:
    """What came in one request."""

    def __init__(self, headers: dict[str, str], body: Any) -> None:
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return json.dumps([self.headers, self.body])


class Upstream:
    """`requests` holds what came; `config` names it as the endpoint `up`."""

    def __init__(self, port: int, key: str) -> None:
        self.requests: list[Asked] = []
        self.url = f"http://127.0.0.1:{port}"
        self.config = Config({"up": Endpoint(f"{self.url}/v1", key)})


def said(text: str = "The answer is 4.", finish_reason: str = "stop") -> web.Response:
    """A good reply."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return web.json_response({"id": "up-1", "object": "chat.completion", "choices": [choice], "usage": usage})


@asynccontextmanager
async def upstream(answer: Answer = lambda asked: said(), key: str = "sk-upstream") -> AsyncIterator[Upstream]:
    """A server of the API that answers as `answer` says."""

    async def handle(request: web.Request) -> web.Response:
        asked = Asked({name.lower(): value for name, value in request.headers.items()}, await request.json())
        there.requests.append(asked)
        return answer(asked)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        there = Upstream(runner.addresses[0][1], key)
        yield there
    finally:
        await runner.cleanup()


class Attacker:
    """A server that counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def attacker() -> AsyncIterator[Attacker]:
    """A server that nobody should come to."""
    there = Attacker()

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.connections += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    there.port = server.sockets[0].getsockname()[1]
    try:
        yield there
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def raw_upstream(reply: bytes) -> AsyncIterator[Config]:
    """A server that answers everything with these bytes, head and all; the configuration that names it as `up`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            writer.write(reply)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield Config({"up": Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")})


def raw_reply(body: bytes, headers: str = "", kind: str = "application/json") -> bytes:
    """A whole HTTP reply, whatever its headers hold."""
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{headers}connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
