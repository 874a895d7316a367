"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API over any model and technique."""

import msgspec
from aiohttp import web

from shoal.runtime.budget import Budget
from shoal.server.access.callers import Caller
from shoal.server.endpoints.asked import Asked
from shoal.server.endpoints.telling import TellingOne, told_as_it_comes, usage_of
from shoal.server.http.guard import ID
from shoal.server.http.replies import json_reply
from shoal.server.refusals import invalid
from shoal.server.service import Service
from shoal.server.wire.chat_input import fields_of
from shoal.server.wire.messages_input import chat_fields, messages_of
from shoal.server.wire.messages_output import MessageEvents, MessageReply
from shoal.techniques.opening import bases


async def messages(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/messages."""
    asked = AskedMessage(await request.read(), caller, service)
    body, call = asked.message, asked.chat_call()
    if body.max_tokens is None:
        raise invalid("max_tokens: Object missing required field `max_tokens`", "max_tokens")
    reply = MessageReply(body.model, thinks=body.shows_thinking or call.own.progress)
    if body.stream:
        telling = TellingOne(MessageEvents(reply, request[ID]))
        return await told_as_it_comes(request, service, call, telling)
    completions, work = await service.complete(call)
    whole = reply.whole(completions[0], usage_of(completions, work), work.told(completions))
    return json_reply(whole)


class AskedMessage(Asked):
    """A body of the messages API, `message`, as the chat that it comes to."""

    def __init__(self, body: bytes, caller: Caller, service: Service) -> None:
        fields = fields_of(body)
        self.message = messages_of(fields)
        super().__init__(msgspec.json.encode(chat_fields(self.message, fields)), caller, service)


async def count_tokens(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/messages/count_tokens: of the prompt as the base model sees it, whatever a technique makes of it."""
    call = AskedMessage(await request.read(), caller, service).chat_call()
    base = next(bases(call.served.model))
    with caller.admitted(Budget()):
        counted = await base.count_tokens(call.request)
    return json_reply({"input_tokens": counted})
