"""POST /v1/completions: bare prompts continued, by the model's own server or through the model."""

from aiohttp import web

from shoal.runtime.types import Completion
from shoal.server.access.callers import Caller
from shoal.server.endpoints.asked import Asked
from shoal.server.endpoints.relaying import passed_on, relayed
from shoal.server.endpoints.telling import told_as_it_comes, usage_of
from shoal.server.http.replies import json_reply
from shoal.server.refusals import Refusal, invalid
from shoal.server.service import Call, Piece, Service, Work
from shoal.server.wire.completions import TextReply, text_of, text_requests


async def completions(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/completions."""
    asked = AskedText(await request.read(), caller, service)
    if asked.relay is not None:
        return await relayed(request, "completions", asked, asked.relay)
    if not asked.common.stream:
        return json_reply(await whole_text(asked))
    call, telling = _call(asked)
    return await told_as_it_comes(request, service, call, telling)


class AskedText(Asked):
    """A body of the text API, and who is to answer it."""

    def __init__(self, body: bytes, caller: Caller, service: Service) -> None:
        super().__init__(body, caller, service)
        preset = self.served.preset
        if preset is not None and preset.system is not None:
            message = "model: this one has a system message, which a bare prompt cannot; use chat completions"
            raise invalid(message, "model")


async def whole_text(asked: AskedText) -> bytes:
    """The reply to a request that does not stream, whoever gives it."""
    if asked.relay is not None:
        return (await passed_on("completions", asked, asked.relay)).body
    call, telling = _call(asked)
    answers, work = await asked.service.complete(call)
    return telling.reply.whole(answers, usage_of(answers, work), work.told(answers))


def _call(asked: AskedText) -> "tuple[Call, _Telling]":
    text = text_of(asked.body, asked.n)
    first, *others = text_requests(
        text, asked.fields, asked.served.preset, to_server=asked.to_server, known=asked.known
    )
    call = Call(asked.served, first, asked.caller, asked.common.shoal, asked.n, tuple(others))
    return call, _Telling(asked, call if text.echo else None)


class _Telling:
    def __init__(self, asked: Asked, echoing: Call | None) -> None:
        echoes = [request.prompt or "" for request in echoing.draws] if echoing is not None else []
        self.reply = TextReply(asked.common.model, echoes, with_usage=asked.common.with_usage)

    def piece(self, piece: Piece, work: Work) -> bytes:
        told = work.told([piece.part]) if isinstance(piece.part, Completion) else None
        return self.reply.part(piece.index, piece.part, told)

    def end(self, done: list[Completion], work: Work) -> bytes:
        return self.reply.end(usage_of(done, work))

    def failed(self, refusal: Refusal) -> bytes:
        return self.reply.failed(refusal)
