"""POST /v1/chat/completions: passed on unread to a model's server, or answered here.

A request for a model behind a server goes there as it came. One for a technique, or for a model in this process, is
read, answered through the model, and written as the API has it.
"""

from typing import Any

from aiohttp import web

from shoal.runtime.types import Completion
from shoal.server.access.callers import Caller
from shoal.server.endpoints.asked import Asked
from shoal.server.endpoints.relaying import passed_on, relayed
from shoal.server.endpoints.telling import told_as_it_comes, usage_of
from shoal.server.http.replies import json_reply
from shoal.server.refusals import Refusal
from shoal.server.service import Piece, Service, Work
from shoal.server.wire.chat_output import DONE, ChatReply, error_event, finish_reason, logprobs, tool_calls


async def chat_completions(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    asked = Asked(await request.read(), caller, service)
    if asked.relay is not None:
        return await relayed(request, "chat/completions", asked, asked.relay)
    if asked.common.stream:
        return await told_as_it_comes(request, service, asked.chat_call(), _Telling(asked))
    return json_reply(await whole_chat(asked))


async def whole_chat(asked: Asked) -> bytes:
    """The reply to a chat request that does not stream, whoever gives it."""
    if asked.relay is not None:
        return (await passed_on("chat/completions", asked, asked.relay)).body
    completions, work = await asked.service.complete(asked.chat_call())
    shown = completions
    if asked.common.n is None and "|" in (work.call.served.technique or ""):
        shown = [*completions, *completions[0].alternatives]  # one choice from each technique, as optillm has it
    return ChatReply(asked.common.model).whole(shown, usage_of(completions, work, shown), work.told(completions))


class _Telling:
    def __init__(self, asked: Asked) -> None:
        self._reply = ChatReply(asked.common.model)
        self._with_usage = asked.common.with_usage
        self._begun: set[int] = set()

    def piece(self, piece: Piece, work: Work) -> bytes:
        begin = b""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            begin = self._reply.chunk(piece.index, {"role": "assistant", "content": ""})
        return begin + self._chunk(piece, work)

    def _chunk(self, piece: Piece, work: Work) -> bytes:
        part = piece.part
        if not isinstance(part, Completion):
            delta = {"content": part.text} if part.text else {}
            if part.reasoning:
                delta["reasoning_content"] = part.reasoning
            return self._reply.chunk(piece.index, delta)
        last: dict[str, Any] = {}
        if part.tool_calls:
            last["tool_calls"] = [{"index": i, **call} for i, call in enumerate(tool_calls(part))]
        # Which delta holds which token is not known here: all come at the end.
        told = work.told([part])
        return self._reply.chunk(piece.index, last, finish_reason(part), logprobs(part.logprobs), shoal=told)

    def end(self, done: list[Completion], work: Work) -> bytes:
        return (self._reply.last_chunk(usage_of(done, work)) if self._with_usage else b"") + DONE

    def failed(self, refusal: Refusal) -> bytes:
        return error_event(refusal)
