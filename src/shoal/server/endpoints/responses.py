"""POST /v1/responses: the OpenAI Responses API, without a memory."""

import msgspec
from aiohttp import web

from shoal.runtime.types import Completion, Delta
from shoal.server.access.keys import Caller
from shoal.server.endpoints.chat import Asked, usage_of
from shoal.server.endpoints.telling import told_as_it_comes
from shoal.server.refusals import Refusal
from shoal.server.service import Piece, Service, Work
from shoal.server.wire.chat_input import fields_of
from shoal.server.wire.responses_input import chat_fields, responses_of
from shoal.server.wire.responses_output import ResponseEvents, ResponseReply


async def responses(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/responses."""
    asked = AskedResponse(await request.read(), caller, service)
    if asked.response.stream:
        return await told_as_it_comes(request, service, asked.chat_call(), _Telling(ResponseReply(asked.response)))
    return web.Response(body=await whole_response(asked), content_type="application/json")


class AskedResponse(Asked):
    """A body of the responses API, `response`, as the chat that it comes to."""

    def __init__(self, body: bytes, caller: Caller, service: Service) -> None:
        fields = fields_of(body)
        self.response = responses_of(fields)
        super().__init__(msgspec.json.encode(chat_fields(self.response, fields)), caller, service)


async def whole_response(asked: AskedResponse) -> bytes:
    """The reply to a request that does not stream."""
    reply = ResponseReply(asked.response)
    completions, work = await asked.service.complete(asked.chat_call())
    return reply.whole(completions[0], usage_of(completions, work), work.told(completions))


async def kept_response(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """Whatever is asked of an earlier response."""
    raise Refusal(404, "no response is kept here, so none can be fetched, cancelled or deleted", code="not_kept")


class _Telling:
    def __init__(self, reply: ResponseReply) -> None:
        self._events = ResponseEvents(reply)

    def piece(self, piece: Piece, work: Work) -> bytes:
        return self._events.delta(piece.part) if isinstance(piece.part, Delta) else b""

    def end(self, done: list[Completion], work: Work) -> bytes:
        return self._events.end(done[0], usage_of(done, work), work.told(done))

    def failed(self, refusal: Refusal) -> bytes:
        return self._events.failed(refusal)
