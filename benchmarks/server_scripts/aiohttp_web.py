"""What the servers of benchmarks/servers.py serve, as an aiohttp application: `aiohttp_web.py PORT [shoal]`.

With `shoal` it is served by shoal's listener, otherwise by aiohttp's own.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from aiohttp import web
from asgi import ANSWER, CHUNK, count


async def chat(request: web.Request) -> web.Response:
    json.loads(await request.read())
    return web.Response(body=ANSWER)


async def read(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


async def state(request: web.Request) -> web.Response:
    return web.json_response(count)


async def second(request: web.Request) -> web.Response:
    await asyncio.sleep(1)
    return web.Response(text="done")


async def whole(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(8)
    return web.Response(text="late")


async def started(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    return response


async def first_token(request: web.Request) -> web.StreamResponse:
    response = await started(request)
    await asyncio.sleep(8)
    return response


async def mid_stream(request: web.Request) -> web.StreamResponse:
    response = await started(request)
    for _ in range(160):
        await response.write(b"data: 1\n\n")
        await asyncio.sleep(0.05)
    return response


async def big(request: web.Request) -> web.StreamResponse:
    response = await started(request)
    for _ in range(640):
        await response.write(CHUNK)
    return response


def watched(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    async def counted(request: web.Request) -> web.StreamResponse:
        count["started"] += 1
        try:
            return await handler(request)
        finally:
            count["ended"] += 1

    return counted


def application() -> web.Application:
    app = web.Application(client_max_size=4 << 20)
    app.router.add_post("/chat", chat)
    app.router.add_post("/read", read)
    app.router.add_get("/state", state)
    app.router.add_get("/second", second)
    for path, handler in (
        ("queued", whole),
        ("whole", whole),
        ("first_token", first_token),
        ("mid_stream", mid_stream),
    ):
        app.router.add_get(f"/{path}", watched(handler))
    app.router.add_get("/big", watched(big))
    return app


def main(port: int, by_shoal: bool) -> None:
    if by_shoal:
        from shoal.server.http.listening import serve

        uvloop.run(serve(application(), "127.0.0.1", port))
    else:
        loop = uvloop.new_event_loop()
        web.run_app(
            application(),
            host="127.0.0.1",
            port=port,
            access_log=None,
            handler_cancellation=True,
            print=None,
            loop=loop,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), "shoal" in sys.argv[2:])
