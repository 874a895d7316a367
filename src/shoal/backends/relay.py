"""Requests that pass to a server as their client wrote them, and replies that come back as the server wrote them.

Only the model's name is put in. What holds for every call holds for these: limits, retries, deadlines, typed errors,
and that a reply counts only when it is whole. A stream is tried again only while nothing of it was passed on.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

from shoal.backends.openai import OpenAIBackend
from shoal.backends.openai_errors import Server, error_of
from shoal.backends.openai_usage import present, reported
from shoal.backends.sse import SseParser
from shoal.backends.transport import Incoming
from shoal.errors import ConnectionFailed, DeadlineExceeded, ModelError
from shoal.runtime.admission import Admission, Turn
from shoal.runtime.limits import USUAL_COMPLETION, estimated_tokens
from shoal.runtime.types import Usage

Api = Literal["chat/completions", "completions"]
Fields = Mapping[str, Raw]
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_END = b"[DONE]"


class Passed(Struct):
    """A whole reply, as it came."""

    headers: Mapping[str, str]
    body: bytes
    usage: Usage


class Passing(Protocol):
    """A reply that streams, as whole events. `usage` is what it cost so far."""

    headers: Mapping[str, str]

    @property
    def usage(self) -> Usage: ...
    def chunks(self) -> AsyncGenerator[bytes, None]: ...


class Relays(Protocol):
    """What passes requests on: a server's relay, or a router's over several."""

    async def post(self, api: Api, fields: Fields) -> Passed: ...
    def stream(self, api: Api, fields: Fields) -> AbstractAsyncContextManager[Passing]: ...


class Relay:
    """What passes requests on to one server, within what the endpoint allows."""

    def __init__(self, backend: OpenAIBackend, admission: Admission) -> None:
        self.backend = backend
        self.name = backend.name
        self.admission = admission
        self._model = Raw(_encode(backend.server.model))

    async def post(self, api: Api, fields: Fields) -> Passed:
        """The whole reply to a request that does not stream. `fields` is the request's body."""

        async def attempt(turn: Turn) -> Passed:
            async with turn as slot:
                status, headers, body = await self.backend.send(api, self._body(fields))
                if not 200 <= status < 300:
                    raise error_of(status, headers, body, self.backend.server)
                usage = _whole(headers, body, fields, self.backend.server)
                slot.used = usage.total_tokens
                return Passed(headers, body, usage)

        return await self._tried(attempt, fields)

    @asynccontextmanager
    async def stream(self, api: Api, fields: Fields) -> AsyncIterator[Passing]:
        """The reply to a request that streams, from its first bytes on."""

        async def attempt(turn: Turn) -> tuple[Passing, AsyncExitStack]:
            async with AsyncExitStack() as kept:
                slot = await kept.enter_async_context(turn)
                incoming = await kept.enter_async_context(self.backend.open(api, self._body(fields)))
                passing = await _begun(incoming, fields, self.backend.server)
                kept.callback(lambda: setattr(slot, "used", passing.usage.total_tokens))
                return passing, kept.pop_all()

        passing, kept = await self._tried(attempt, fields)
        async with kept:
            yield passing

    def _body(self, fields: Fields) -> bytes:
        return _encode({**fields, "model": self._model})

    async def _tried(self, attempt: Callable[[Turn], Awaitable[T]], fields: Fields) -> T:
        """`attempt` in its turn, again where its error allows it. It gives its slot back before an error gets here."""
        loop, admission = asyncio.get_running_loop(), self.admission
        deadline = loop.time() + admission.retry.deadline
        tokens = expected(fields) if admission.counts_tokens else 0
        attempts = 0
        while True:
            attempts += 1
            turn = admission.slot(tokens)
            try:
                async with asyncio.timeout_at(deadline):
                    result = await attempt(turn)
            except TimeoutError:
                seconds = admission.retry.deadline
                raise DeadlineExceeded(f"no answer within {seconds:g} s", endpoint=self.name, retryable=False) from None
            except ModelError as error:
                if turn.slot is None:  # the endpoint lets nobody in now
                    raise
                admission.failed(error, turn.slot, loop.time())
                delay = admission.retry_delay(error, attempts, deadline - loop.time())
                if delay is None:
                    raise
            else:
                admission.succeeded()
                return result
            await asyncio.sleep(delay)


class _Choice(Struct):
    index: int | None = None
    finish_reason: str | None = None


class _Reply(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = Raw()
    error: Raw = Raw()


_decode = msgspec.json.Decoder(_Reply).decode


def _whole(headers: Mapping[str, str], body: bytes, fields: Fields, server: Server) -> Usage:
    """What a whole reply cost; raises where it is none."""
    kind = headers.get("content-type") or "json"
    if "json" not in kind.lower():
        raise server.malformed(f"expected JSON, got {kind[:60]}")
    reply = _read(body, server)
    if present(reply.error):
        raise error_of(200, headers, body, server)
    if not reply.choices or not all(choice.finish_reason for choice in reply.choices):
        raise server.malformed("a reply without finished choices")
    if {i if choice.index is None else choice.index for i, choice in enumerate(reply.choices)} != set(
        range(len(reply.choices))
    ):
        raise server.malformed("a choice with an index nobody asked for")
    return _usage(reply.usage, fields, len(body), len(reply.choices))


def _read(data: bytes, server: Server) -> _Reply:
    try:
        str(data, "utf-8")  # texts that are passed over unread must be what JSON may hold, too
        return _decode(data)
    except (ValueError, RecursionError) as error:
        raise server.malformed(f"not a reply of this API: {error}") from None


async def _begun(incoming: Incoming, fields: Fields, server: Server) -> Passing:
    if "event-stream" not in (incoming.headers.get("content-type") or "").lower():
        body = await incoming.whole()
        if not 200 <= incoming.status < 300:
            raise error_of(incoming.status, incoming.headers, body, server)
        return _NotStreamed(incoming.headers, body, _whole(incoming.headers, body, fields, server))
    if not 200 <= incoming.status < 300:
        raise error_of(incoming.status, incoming.headers, b"", server)
    streaming = _Streaming(incoming, fields, server)
    await streaming.begin()
    return streaming


class _NotStreamed:
    """The whole reply of a server that does not stream, as the events of one that does."""

    def __init__(self, headers: Mapping[str, str], body: bytes, usage: Usage) -> None:
        self.headers = headers
        self.usage = usage
        self._body = body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        reply: dict[str, Any] = msgspec.json.decode(self._body)
        reply.pop("error", None)  # null, but many clients look no further
        if reply.get("object") == "chat.completion":
            reply["object"] = "chat.completion.chunk"
        for choice in reply["choices"]:
            if "message" in choice:
                choice["delta"] = choice.pop("message")
                for i, call in enumerate(choice["delta"].get("tool_calls") or ()):
                    call["index"] = i
        yield framed(_encode(reply)) + framed(_END)


class _Streaming:
    """A stream's events as they come, read along to see whether it is whole and what it cost.

    Only whole events are passed on, and the end only where all is there: what breaks off never looks whole.
    """

    def __init__(self, incoming: Incoming, fields: Fields, server: Server) -> None:
        self.headers = incoming.headers
        self._fields = fields
        self._server = server
        self._incoming = incoming
        self._parser = SseParser()
        self._first = b""
        self._broken: ModelError | None = None
        self._unfinished: set[int] = set()
        self._choices: set[int] = set()
        self._bytes = 0
        self._reported = Raw()
        self._done = False

    @property
    def usage(self) -> Usage:
        """What it cost so far, for one that is left early, too."""
        return _usage(self._reported, self._fields, self._bytes, len(self._choices))

    async def begin(self) -> None:
        """Wait for the first event, so that a stream that begins with an error is an error."""
        while chunk := await self._incoming.piece():
            self._first = self._events_in(chunk)
            if self._broken is not None:
                raise self._broken
            if self._first:
                return
        raise ConnectionFailed("the stream ended before it began", endpoint=self._server.name)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The events of the stream. Raises ModelError where it breaks off, or holds an error."""
        yield self._first
        if not self._done:
            while chunk := await self._incoming.piece():
                if events := self._events_in(chunk):
                    yield events
                if self._broken is not None:
                    raise self._broken
                if self._done:
                    return
            raise self._server.malformed("the stream ended without [DONE]")

    def _events_in(self, chunk: bytes) -> bytes:
        """The events that end in a chunk, up to one that is an error."""
        good: list[bytes] = []
        try:
            for data in self._parser.feed(chunk):
                self._event(data)
                good.append(framed(data))
                if self._done:
                    break
        except ModelError as error:
            self._broken = error
        return b"".join(good)

    def _event(self, data: bytes) -> None:
        if data.strip() == _END:
            if self._unfinished or not self._choices:
                raise self._server.malformed("the stream ended without finish_reason")
            self._done = True
            return
        reply = _read(data, self._server)
        if present(reply.error):
            raise error_of(200, {}, data, self._server)
        if present(reply.usage):
            self._reported = reply.usage.copy()
        for choice in reply.choices or ():
            self._choices.add(choice.index or 0)
            self._bytes += 4  # a chunk is about a token
            if choice.finish_reason:
                self._unfinished.discard(choice.index or 0)
            else:
                self._unfinished.add(choice.index or 0)


def framed(data: bytes) -> bytes:
    """An event of a stream."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def _usage(raw: Raw, fields: Fields, reply_bytes: int, choices: int) -> Usage:
    usage = reported(raw)
    if usage is not None:
        return Usage(usage.prompt_tokens, usage.completion_tokens, choices)
    return Usage(prompt_tokens(fields), estimated_tokens(reply_bytes), choices, estimated=True)


def prompt_tokens(fields: Fields) -> int:
    """About how many tokens the prompt of a body has."""
    asked = fields.get("messages") or fields.get("prompt") or Raw()
    return estimated_tokens(len(memoryview(asked)))


def expected(fields: Fields) -> int:
    """What a request will probably cost at most, in tokens."""
    numbers = []
    for names, default in ((("max_completion_tokens", "max_tokens"), USUAL_COMPLETION), (("n",), 1)):
        raw = next((fields[name] for name in names if name in fields), None)
        value = None if raw is None else msgspec.json.decode(raw)
        numbers.append(value if isinstance(value, int) and value > 0 else default)
    return prompt_tokens(fields) + numbers[0] * numbers[1]
