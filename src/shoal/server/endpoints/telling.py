"""An answer told as it comes, in the events of whichever API was asked."""

from typing import Any, Protocol

from aiohttp import web

from shoal.errors import ShoalError
from shoal.runtime.types import Completion, Delta, total
from shoal.server.http.streams import EventStream
from shoal.server.refusals import Refusal, refusal_of
from shoal.server.service import Call, Piece, Service, Work
from shoal.server.wire.chat_output import Told, final_tokens, usage_body


class Telling(Protocol):
    """An API's events for one reply: bytes to send, whole events, or none."""

    def piece(self, piece: Piece, work: Work) -> bytes: ...
    def end(self, done: list[Completion], work: Work) -> bytes: ...
    def failed(self, refusal: Refusal) -> bytes: ...


class Events(Protocol):
    """The events of an API that gives one answer."""

    def delta(self, delta: Delta) -> bytes: ...
    def end(self, completion: Completion, usage: dict[str, Any], told: Told) -> bytes: ...
    def failed(self, refusal: Refusal) -> bytes: ...


class TellingOne:
    """A `Telling` for an API that gives one answer."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def piece(self, piece: Piece, work: Work) -> bytes:
        return self._events.delta(piece.part) if isinstance(piece.part, Delta) else b""

    def end(self, done: list[Completion], work: Work) -> bytes:
        return self._events.end(done[0], usage_of(done, work), work.told(done))

    def failed(self, refusal: Refusal) -> bytes:
        return self._events.failed(refusal)


def usage_of(completions: list[Completion], work: Work, shown: list[Completion] | None = None) -> dict[str, Any]:
    """The API's `usage` of answers, of which the client sees those `shown`, by default all."""
    final = sum(final_tokens(completion, work.trace) for completion in (shown or completions))
    return usage_body(total(completion.usage for completion in completions), final)


async def told_as_it_comes(request: web.Request, service: Service, call: Call, telling: Telling) -> web.StreamResponse:
    """The reply to `call`, streamed. A call that fails before anything was sent raises instead."""
    pieces = service.stream(call)
    work = await anext(pieces)
    assert isinstance(work, Work)
    done: list[Completion] = []
    begin_after = 2.0 if call.served.base is None else 8.0  # seconds
    async with EventStream(request, begin_after=begin_after, progress=work.progress) as stream:
        try:
            async for piece in pieces:
                assert isinstance(piece, Piece)
                if isinstance(piece.part, Completion):
                    done.append(piece.part)
                if events := telling.piece(piece, work):
                    await stream.send(events)
            await stream.send(telling.end(done, work))
        except ShoalError as error:
            if not stream.begun:
                raise
            refusal = refusal_of(error)
            await stream.fail(refusal, telling.failed(refusal))
        finally:
            await pieces.aclose()
    return stream.response
