"""What the servers of benchmarks/servers.py serve, as a bare ASGI application: `uvicorn asgi:app` and the like.

It does what applications usually do: it reads the body, and does not watch `receive` for a disconnect afterwards.
"""

import asyncio
import json
from typing import Any

ANSWER = json.dumps(
    {"id": "chatcmpl-1", "choices": [{"message": {"role": "assistant", "content": "word " * 80}}]}
).encode()
CHUNK = b"x" * 16_384
count = {"started": 0, "ended": 0}


async def read(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client went away")
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def head(send: Any, length: int | None = None) -> None:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def whole(send: Any, body: bytes) -> None:
    await head(send, len(body))
    await send({"type": "http.response.body", "body": body})


async def piece(send: Any, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def watched(path: str, send: Any) -> None:
    count["started"] += 1
    try:
        if path == "/first_token":
            await head(send)
        elif path == "/mid_stream":
            await head(send)
            for _ in range(160):
                await piece(send, b"data: 1\n\n")
                await asyncio.sleep(0.05)
        elif path == "/big":
            await head(send)
            for _ in range(640):
                await piece(send, CHUNK)
        if path not in ("/big", "/mid_stream"):
            await asyncio.sleep(8)
        if path in ("/queued", "/whole"):
            await whole(send, b"late")
        else:
            await piece(send, b"", more=False)
    finally:
        count["ended"] += 1


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise RuntimeError(f"{scope['type']} is not served")
    path = scope["path"]
    if path == "/chat":
        json.loads(await read(receive))
        await whole(send, ANSWER)
    elif path == "/read":
        await whole(send, str(len(await read(receive))).encode())
    elif path == "/state":
        await whole(send, json.dumps(count).encode())
    elif path == "/second":
        await asyncio.sleep(1)
        await whole(send, b"done")
    else:
        await watched(path, send)
