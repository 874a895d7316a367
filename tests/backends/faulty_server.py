"""A server of the OpenAI API on loopback, raw sockets, that fails in a named way where a request asks for it.

    async with faulty_server() as server:
        backend = OpenAIBackend("m", base_url=server.base_url)

`[[NAME]]` anywhere in the request's body (the user's message, the model's name) makes the reply the fault of that
name; `[[NAME*3]]` the first three times such a request comes, and a good answer from then on. Without it the answers
are good: choice j of prompt i says "answer i.j". FAULTS lists the names.
"""

import asyncio
import gzip
import json
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

_ASKED = re.compile(rb"\[\[([\w-]+)(?:\*(\d+))?\]\]")


class Seen(NamedTuple):
    """A request the server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class FaultyServer:
    """`requests` holds what came, `connections` how many were opened; `hung_up(n)` waits until n clients went away."""

    def __init__(self) -> None:
        self.base_url = ""
        self.port = 0
        self.requests: list[Seen] = []
        self.connections = 0
        self._hung_up = 0
        self._changed = asyncio.Condition()
        self._asked: Counter[bytes] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def hung_up(self, count: int = 1) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: self._hung_up >= count)

    async def got(self, count: int) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def wait_for_client_to_go(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        async with self._changed:
            self._hung_up += 1
            self._changed.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                async with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # a client that goes, or the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        raw = json.dumps(request.body).encode()
        asked = _ASKED.search(raw)
        if asked is None or (asked[2] is not None and self._asked[asked[0]] >= int(asked[2])):
            writer.write(stream(request.body) if request.body.get("stream") else whole(reply(request)))
            await writer.drain()
            return True
        self._asked[asked[0]] += 1
        fault = FAULTS[asked[1].decode()]
        if isinstance(fault, bytes):
            writer.write(fault)
            await writer.drain()
            return False
        return bool(await fault(self, request, reader, writer))

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.sleep(0)


@asynccontextmanager
async def faulty_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultyServer]:
    server = FaultyServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls, limit=1 << 22)
    server.port = listening.sockets[0].getsockname()[1]
    server.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}/v1"
    try:
        yield server
    finally:
        listening.close()
        await server.aclose()


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Seen(method, path, headers, json.loads(body) if body else None)


# Good replies


def reply(request: Seen, **changes: Any) -> dict[str, Any]:
    """A good reply to the request."""
    body = request.body
    if request.path.endswith("/embeddings"):
        vectors = [{"index": i, "embedding": [float(len(text)), 0.5]} for i, text in enumerate(body["input"])]
        return {"object": "list", "data": vectors[::-1], "model": "served", **changes}
    if request.path.endswith("/tokenize"):
        return {"count": 7, "max_model_len": 4096, "tokens": list(range(7)), **changes}
    n = body.get("n", 1)
    chat = "messages" in body
    prompts = body["prompt"] if isinstance(body.get("prompt"), list) else [None]
    choices = []
    for i in range(len(prompts)):
        for j in range(n):
            text = f"answer {i}.{j}"
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices.append({"index": i * n + j, "finish_reason": "stop", **said})
    if "prompt_logprobs" in body:
        whole_prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        changes = {"prompt_logprobs": _scored(whole_prompt), **changes}
    usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    return {"id": "x", "model": "served", "choices": choices, "usage": usage, **changes}


def _scored(prompt: str) -> list[dict[str, Any] | None]:
    """A prompt's words as vLLM gives them: each less likely than the one before."""
    words = re.findall(r" ?[^ ]+", prompt)
    tokens = [{str(i): {"logprob": -0.5 * i, "rank": 1, "decoded_token": word}} for i, word in enumerate(words, 1)]
    return [None, *tokens]


def whole(body: Any, status: str = "200 OK", headers: str = "", kind: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


def events(body: dict[str, Any]) -> list[bytes]:
    """A good stream's events: four deltas, the end, the usage, [DONE]."""
    chat = "messages" in body
    texts = ["One ", "fish, ", "two ", "fish."]
    pieces = [{"delta": {"content": text}} if chat else {"text": text} for text in texts]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "finish_reason": None, **piece}]} for piece in pieces]
    end = {"delta": {}} if chat else {"text": ""}
    chunks.append({"choices": [{"index": 0, "finish_reason": "stop", **end}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}})
    data = [json.dumps({"model": "served", **chunk}).encode() for chunk in chunks]
    return [b"data: %s\n\n" % line for line in [*data, b"[DONE]"]]


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def stream(body: dict[str, Any]) -> bytes:
    return _STREAM_HEAD + b"".join(map(_chunk, events(body))) + b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# Faults: bytes after which the connection closes, or a coroutine that is true where the connection goes on

Fault = Callable[[FaultyServer, Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


def _broken(cut: Callable[[bytes], bytes], *, reset: bool = False) -> Fault:
    """A good reply cut somewhere, and then the connection closed or reset."""

    async def fault(server: FaultyServer, request: Seen, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        good = stream(request.body) if request.body.get("stream") else whole(reply(request))
        writer.write(cut(good))
        await writer.drain()
        if reset:
            writer.transport.abort()

    return fault


def _stalling(cut: Callable[[bytes], bytes]) -> Fault:
    """A good reply cut somewhere, and then silence until the client goes away."""

    async def fault(
        server: FaultyServer, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        good = stream(request.body) if request.body.get("stream") else whole(reply(request))
        writer.write(cut(good))
        await writer.drain()
        await server.wait_for_client_to_go(reader)

    return fault


def _replying(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """A reply that is whole HTTP and not a good answer."""

    async def fault(server: FaultyServer, request: Seen, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        good = reply(request)
        changed = change(good)
        writer.write(changed if isinstance(changed, bytes) else whole(good if changed is None else changed))
        await writer.drain()
        return True

    return fault


def _streaming(change: Callable[[list[bytes]], list[bytes]], *, ended: bool = True) -> Fault:
    """A stream whose events are others; `ended` with the last chunk, else cut off."""

    async def fault(server: FaultyServer, request: Seen, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(_STREAM_HEAD)
        for event in change(events(request.body)):
            writer.write(_chunk(event))
        if ended:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return ended

    return fault


async def _drip(
    server: FaultyServer, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """A byte of the body every 50 ms, for as long as the client listens."""
    head, _, body = whole(reply(request)).partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    gone = asyncio.create_task(server.wait_for_client_to_go(reader))
    for i in range(len(body)):
        writer.write(body[i : i + 1])
        await asyncio.wait([gone], timeout=0.05)
        if gone.done():
            break
    await gone


def _error(status: str, headers: str = "", **error: Any) -> bytes:
    return whole({"error": {"message": "no", "type": None, "code": None, **error}}, status, headers)


def _first(good: dict[str, Any], **changes: Any) -> None:
    good["choices"][0].update(changes)


def _content(good: dict[str, Any], value: Any) -> bytes:
    _first(good, message={"role": "assistant", "content": "@"})
    return whole(json.dumps(good).encode().replace(b'"@"', value))


def _in_body(cut: int) -> Callable[[bytes], bytes]:
    return lambda good: good[: good.index(b"\r\n\r\n") + 4 + cut]


_BOMB = gzip.compress(b'{"x":"' + b"a" * (64 << 20) + b'"}', 1)

FAULTS: dict[str, bytes | Fault] = {
    # The connection
    "close-at-once": b"",
    "reset-before-headers": _broken(lambda good: b"", reset=True),
    "reset-in-headers": _broken(lambda good: good[:25], reset=True),
    "reset-in-body": _broken(_in_body(20), reset=True),
    "reset-after-body": _broken(lambda good: good, reset=True),
    "close-in-headers": _broken(lambda good: good[:25]),
    "content-length-too-long": _broken(_in_body(40)),
    "chunked-unterminated": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"a":\r\n',
    "http10-cut": b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"choices":[{"ind',
    "not-http": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "stall-before-headers": _stalling(lambda good: b""),
    "stall-after-headers": _stalling(_in_body(0)),
    "stall-in-body": _stalling(_in_body(20)),
    "drip": _drip,
    "endless-headers": b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 1000) * 300,
    "two-replies": _replying(lambda good: whole(good) * 2),
    "interim": _replying(lambda good: b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + whole(good)),
    # The body
    "empty": whole(b""),
    "html": whole(b"<html><body><h1>Sign in</h1></body></html>", kind="text/html"),
    "html-as-json": whole(b"<html></html>"),
    "text-plain": _replying(lambda good: whole(good, kind="text/plain")),
    "truncated-json": _replying(lambda good: whole(json.dumps(good).encode()[:-20])),
    "nan": _replying(lambda good: whole(json.dumps(good).encode().replace(b"17", b"NaN"))),
    "invalid-utf8": _replying(lambda good: _content(good, b'"\xff\xfe"')),
    "lone-surrogate": _replying(lambda good: _content(good, rb'"\ud800"')),
    "deep": whole(b"[" * 100_000),
    "deep-ignored": _replying(lambda good: whole(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    "huge": whole(b'{"x":"' + b"a" * (4 << 20) + b'"}'),
    "gzip-bomb": whole(_BOMB, headers="Content-Encoding: gzip\r\n"),
    "gzip": _replying(
        lambda good: whole(gzip.compress(json.dumps(good).encode()), headers="Content-Encoding: gzip\r\n")
    ),
    "gzip-cut": _replying(
        lambda good: whole(gzip.compress(json.dumps(good).encode())[:-9], headers="Content-Encoding: gzip\r\n")
    ),
    "gzip-garbage": whole(b"not gzip", headers="Content-Encoding: gzip\r\n"),
    "brotli": whole(b"x", headers="Content-Encoding: br\r\n"),
    "error-body": whole({"error": {"message": "the engine is dead", "type": "weird", "code": None}}),
    "error-body-429": whole({"error": {"message": "slow down", "code": 429}}),
    "error-body-null": _replying(lambda good: {**good, "error": None}),
    "empty-choices": _replying(lambda good: {**good, "choices": []}),
    "null-choices": _replying(lambda good: {**good, "choices": None}),
    "no-choices": _replying(lambda good: {"id": "x"}),
    "too-many-choices": _replying(lambda good: {**good, "choices": good["choices"] + good["choices"]}),
    "one-choice-less": _replying(lambda good: {**good, "choices": good["choices"][:-1]}),
    "duplicate-index": _replying(lambda good: good["choices"][-1].update(index=0)),
    "wrong-index": _replying(lambda good: _first(good, index=99)),
    "negative-index": _replying(lambda good: _first(good, index=-1)),
    "no-finish-reason": _replying(lambda good: _first(good, finish_reason=None)),
    "null-content": _replying(lambda good: _content(good, b"null")),
    "usage-negative": _replying(lambda good: {**good, "usage": {"prompt_tokens": -5, "completion_tokens": 3}}),
    "usage-huge": _replying(lambda good: {**good, "usage": {"prompt_tokens": 5, "completion_tokens": 1 << 60}}),
    "usage-missing": _replying(lambda good: {**good, "usage": None}),
    # The status
    "redirect": whole(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:9/v1/chat/completions\r\n"),
    "429": _error("429 Too Many Requests"),
    "429-retry-after": _error("429 Too Many Requests", "Retry-After: 1.5\r\n"),
    "429-retry-after-0": _error("429 Too Many Requests", "Retry-After: 0\r\n"),
    "429-retry-after-ms": _error("429 Too Many Requests", "Retry-After: 9\r\nRetry-After-Ms: 20\r\n"),
    "429-long": _error("429 Too Many Requests", "Retry-After: 1000000000\r\n"),
    "429-final": _error("429 Too Many Requests", "X-Should-Retry: false\r\n"),
    "quota": _error("429 Too Many Requests", message="You exceeded your current quota", code="insufficient_quota"),
    "context": _error("400 Bad Request", message="maximum context length is 4096", code="context_length_exceeded"),
    **{
        status.split()[0]: _error(status)
        for status in (
            "400 Bad Request",
            "401 Unauthorized",
            "402 Payment Required",
            "403 Forbidden",
            "404 Not Found",
            "408 Request Timeout",
            "409 Conflict",
            "413 Content Too Large",
            "422 Unprocessable Content",
            "500 Internal Server Error",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "504 Gateway Timeout",
            "529 Overloaded",
        )
    },
    # Streams
    "sse-cut": _streaming(lambda events: events[:2], ended=False),
    "sse-cut-in-event": _streaming(lambda events: [*events[:2], events[2][:10]], ended=False),
    "sse-ends-early": _streaming(lambda events: events[:2]),
    "sse-ends-in-event": _streaming(lambda events: [*events[:2], events[2][:10]]),
    "sse-no-done": _streaming(lambda events: events[:-1]),
    "sse-no-finish": _streaming(lambda events: [*events[:4], *events[5:]]),
    "sse-error": _streaming(
        lambda events: [*events[:2], b'event: error\ndata: {"error":{"message":"out of memory","code":500}}\n\n']
    ),
    "sse-garbage": _streaming(lambda events: [*events[:2], b"data: {oops\n\n", *events[2:]]),
    "sse-invalid-utf8": _streaming(lambda events: [events[0].replace(b"One", b"\xff\xfe"), *events[1:]]),
    "sse-wrong-index": _streaming(lambda events: [events[0].replace(b'"index": 0', b'"index": 3'), *events[1:]]),
    "sse-stall": _stalling(lambda good: good[:-60]),
    "sse-drips": _streaming(lambda events: [bytes([byte]) for byte in b"".join(events)]),
    "sse-crlf": _streaming(lambda events: [b": hi\r\n\r\n", *(event.replace(b"\n", b"\r\n") for event in events)]),
    "sse-reset-after-done": _broken(lambda good: good, reset=True),
    "sse-no-last-chunk": _streaming(lambda events: events, ended=False),
    "sse-json": _replying(lambda good: good),
}
