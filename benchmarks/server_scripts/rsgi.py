"""What the servers of benchmarks/servers.py serve, for granian's own interface: `granian --interface rsgi rsgi:app`."""

import asyncio
import json
from typing import Any

from asgi import ANSWER, CHUNK, count

PLAIN = [("content-type", "text/plain")]


async def watched(path: str, protocol: Any) -> None:
    count["started"] += 1
    try:
        stream = None if path in ("/queued", "/whole") else protocol.response_stream(200, PLAIN)
        if stream is not None and path == "/mid_stream":
            for _ in range(160):
                await stream.send_bytes(b"data: 1\n\n")
                await asyncio.sleep(0.05)
        elif stream is not None and path == "/big":
            for _ in range(640):
                await stream.send_bytes(CHUNK)
        if path not in ("/big", "/mid_stream"):
            await asyncio.sleep(8)
        if stream is None:
            protocol.response_bytes(200, PLAIN, b"late")
    finally:
        count["ended"] += 1


async def app(scope: Any, protocol: Any) -> None:
    path = scope.path
    if path == "/chat":
        json.loads(await protocol())
        protocol.response_bytes(200, PLAIN, ANSWER)
    elif path == "/read":
        protocol.response_bytes(200, PLAIN, str(len(await protocol())).encode())
    elif path == "/state":
        protocol.response_bytes(200, PLAIN, json.dumps(count).encode())
    elif path == "/second":
        await asyncio.sleep(1)
        protocol.response_bytes(200, PLAIN, b"done")
    else:
        await watched(path, protocol)
