"""POST /v1/responses: the OpenAI Responses API, without a memory."""

import msgspec
from aiohttp import web

from shoal.server.access.callers import Caller
from shoal.server.endpoints.asked import Asked
from shoal.server.endpoints.telling import TellingOne, told_as_it_comes, usage_of
from shoal.server.http.replies import json_reply
from shoal.server.refusals import Refusal
from shoal.server.service import Service
from shoal.server.wire.chat_input import fields_of
from shoal.server.wire.responses_input import chat_fields, responses_of
from shoal.server.wire.responses_output import ResponseEvents, ResponseReply


async def responses(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/responses."""
    asked = AskedResponse(await request.read(), caller, service)
    if asked.response.stream:
        events = ResponseEvents(ResponseReply(asked.response))
        return await told_as_it_comes(request, service, asked.chat_call(), TellingOne(events))
    return json_reply(await whole_response(asked))


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
