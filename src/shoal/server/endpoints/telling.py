"""An answer told as it comes, in the events of whichever API was asked."""

from typing import Protocol

from aiohttp import web

from shoal.errors import ShoalError
from shoal.runtime.types import Completion
from shoal.server.http.streams import EventStream
from shoal.server.refusals import Refusal, refusal_of
from shoal.server.service import Call, Piece, Service, Work


class Telling(Protocol):
    """An API's events for one reply: bytes to send, whole events, or none."""

    def piece(self, piece: Piece, work: Work) -> bytes: ...
    def end(self, done: list[Completion], work: Work) -> bytes: ...
    def failed(self, refusal: Refusal) -> bytes: ...


async def told_as_it_comes(
    request: web.Request, service: Service, call: Call, telling: Telling, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """The reply to `call`, streamed. A call that fails before anything was sent raises instead."""
    pieces = service.stream(call)
    work = await anext(pieces)
    assert isinstance(work, Work)
    done: list[Completion] = []
    begin_after = 2.0 if call.served.base is None else 8.0
    async with EventStream(request, begin_after=begin_after, progress=work.progress) as stream:
        stream.response.headers.update(headers or {})
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
            await stream.send(telling.failed(refusal_of(error)))
        finally:
            await pieces.aclose()
    return stream.response
