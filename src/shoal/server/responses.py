"""POST /v1/responses: the OpenAI Responses API, without a memory."""

import msgspec
from aiohttp import web

from shoal.runtime.types import Completion, Delta
from shoal.server.bodies import fields_of
from shoal.server.chat import Asked, usage_of
from shoal.server.keys import Caller
from shoal.server.refusals import Refusal
from shoal.server.responses_input import chat_fields, responses_of
from shoal.server.responses_output import ResponseEvents, ResponseReply
from shoal.server.service import Piece, Service, Work
from shoal.server.telling import told_as_it_comes


async def responses(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/responses."""
    fields = fields_of(await request.read())
    body = responses_of(fields)
    call = Asked(msgspec.json.encode(chat_fields(body, fields)), caller, service).chat_call()
    reply = ResponseReply(body)
    if body.stream:
        return await told_as_it_comes(request, service, call, _Telling(reply))
    completions, work = await service.complete(call)
    whole = reply.whole(completions[0], usage_of(completions, work), work.told(completions))
    return web.Response(body=whole, content_type="application/json")


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
