"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API over any model and technique."""

import msgspec
from aiohttp import web

from shoal.runtime.budget import Budget
from shoal.runtime.types import Completion, Delta
from shoal.server.bodies import fields_of
from shoal.server.chat import Asked, usage_of
from shoal.server.guard import ID
from shoal.server.keys import Caller
from shoal.server.messages_input import Messages, chat_fields, messages_of
from shoal.server.messages_output import MessageEvents, MessageReply
from shoal.server.refusals import Refusal, invalid
from shoal.server.service import Call, Piece, Service, Work
from shoal.server.telling import told_as_it_comes
from shoal.techniques.opening import bases


async def messages(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/messages."""
    body, call = await _asked(request, service, caller)
    if body.max_tokens is None:
        raise invalid("max_tokens: Object missing required field `max_tokens`", "max_tokens")
    reply = MessageReply(body.model, thinks=body.shows_thinking or call.own.progress)
    if body.stream:
        telling = _Telling(MessageEvents(reply, request[ID]))
        return await told_as_it_comes(request, service, call, telling, {"request-id": request[ID]})
    completions, work = await service.complete(call)
    whole = reply.whole(completions[0], usage_of(completions, work), work.told(completions))
    return web.Response(body=whole, content_type="application/json")


async def count_tokens(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/messages/count_tokens: of the prompt as the base model sees it, whatever a technique makes of it."""
    _, call = await _asked(request, service, caller)
    base = next(bases(call.served.model))
    with caller.admitted(Budget()):
        counted = await base.count_tokens(call.request)
    return web.Response(body=msgspec.json.encode({"input_tokens": counted}), content_type="application/json")


async def _asked(request: web.Request, service: Service, caller: Caller) -> tuple[Messages, Call]:
    fields = fields_of(await request.read())
    body = messages_of(fields)
    return body, Asked(msgspec.json.encode(chat_fields(body, fields)), caller, service).chat_call()


class _Telling:
    def __init__(self, events: MessageEvents) -> None:
        self._events = events

    def piece(self, piece: Piece, work: Work) -> bytes:
        return self._events.delta(piece.part) if isinstance(piece.part, Delta) else b""

    def end(self, done: list[Completion], work: Work) -> bytes:
        return self._events.end(done[0], usage_of(done, work), work.told(done))

    def failed(self, refusal: Refusal) -> bytes:
        return self._events.failed(refusal)
