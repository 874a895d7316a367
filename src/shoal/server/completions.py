"""POST /v1/completions: bare prompts continued, by the model's own server or through the model."""

from typing import Any

from aiohttp import web

from shoal.runtime.types import Completion
from shoal.server.chat import Asked, relayed, usage_of
from shoal.server.keys import Caller
from shoal.server.refusals import Refusal, invalid
from shoal.server.service import Call, Piece, Service, Work
from shoal.server.telling import told_as_it_comes
from shoal.server.text_wire import Text, TextReply, text_of, text_requests


async def completions(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/completions."""
    asked = Asked(await request.read(), caller, service)
    if asked.served.preset is not None and asked.served.preset.system is not None:
        raise invalid("model: this one has a system message, which a bare prompt cannot; use chat completions", "model")
    if asked.relay is not None:
        return await relayed(request, "completions", asked, asked.relay)
    text = text_of(asked.body, asked.n)
    call = _call(asked, text)
    telling = _Telling(asked, call if text.echo else None)
    if asked.common.stream:
        return await told_as_it_comes(request, service, call, telling)
    answers, work = await service.complete(call)
    body = telling.reply.whole(answers, usage_of(answers, work), work.told(answers))
    return web.Response(body=body, content_type="application/json")


def _call(asked: Asked, text: Text) -> Call:
    first, *others = text_requests(
        text, asked.fields, asked.served.preset, to_server=asked.to_server, known=asked.known
    )
    return Call(asked.served, first, asked.caller, asked.common.shoal, asked.n, tuple(others))


class _Telling:
    def __init__(self, asked: Asked, echoing: Call | None) -> None:
        options = asked.common.stream_options
        echoes = [request.prompt or "" for request in echoing.draws] if echoing is not None else []
        self.reply = TextReply(asked.common.model, echoes, with_usage=options is not None and options.include_usage)

    def piece(self, piece: Piece, work: Work) -> bytes:
        return self.reply.piece(piece, work.told([piece.part]) if isinstance(piece.part, Completion) else None)

    def end(self, done: list[Completion], work: Work) -> bytes:
        usage: dict[str, Any] = usage_of(done, work)
        return self.reply.end(usage)

    def failed(self, refusal: Refusal) -> bytes:
        return self.reply.failed(refusal)
