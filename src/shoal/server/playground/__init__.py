"""The playground: a page for trying models and techniques, and what it asks of the server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from shoal.errors import ShoalError
from shoal.runtime.types import Message, Request, SamplingParams
from shoal.sandbox import need
from shoal.server.access.callers import Caller
from shoal.server.http.replies import json_reply
from shoal.server.http.streams import EventStream
from shoal.server.limits import refuse_long_conversation
from shoal.server.playground.catalogue import catalogue, estimate
from shoal.server.playground.live import events
from shoal.server.playground.rendering import rendered
from shoal.server.refusals import invalid, read_as
from shoal.server.service import Call, Service

Endpoint = Callable[[web.Request, Service, Caller], Awaitable[web.StreamResponse]]
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class PageTurn(Struct, frozen=True, forbid_unknown_fields=True):
    """One message as the page writes it."""

    role: str
    content: str


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """What the page asks of one model."""

    model: str
    messages: tuple[PageTurn, ...]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def request(self) -> Request:
        if not any(turn.role == "user" and turn.content.strip() for turn in self.messages):
            raise invalid("Write a question first", "messages")
        params = SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=self.stop,
            seed=self.seed,
        )
        return Request(messages=tuple(Message(turn.role, turn.content) for turn in self.messages), params=params)


class Spec(Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a model."""

    model: str


class Shown(Struct, frozen=True, forbid_unknown_fields=True):
    """A text to be shown."""

    text: str


async def _catalogue(_: web.Request, service: Service, caller: Caller) -> web.Response:
    return json_reply(catalogue(service.names, service.settings, caller) | {"unconfined": await _unconfined()})


async def _unconfined() -> str:
    """Why programs that a model wrote cannot be run here; empty where they can."""
    try:
        await need()
    except ShoalError as error:
        return str(error)
    return ""


async def _estimate(request: web.Request, service: Service, caller: Caller) -> web.Response:
    served = service.names.resolve(read_as(await request.read(), Spec).model)
    caller.check(served)
    return json_reply(_encoded(estimate(served.model)))


async def _render(request: web.Request, service: Service, caller: Caller) -> web.Response:
    text = read_as(await request.read(), Shown).text
    return json_reply(_encoded({"html": await asyncio.to_thread(rendered, text)}))


async def _run(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """A stream of events, each a JSON list of what happened since the one before."""
    question: Question = read_as(await request.read(), Question)
    refuse_long_conversation(len(question.messages), service.settings)
    served = service.names.resolve(question.model)
    call = Call(served, question.request(), caller)
    async with (
        EventStream(request, begin_after=1.0) as stream,
        aclosing(events(served.model, call.request, service.carrying(call))) as batches,
    ):
        async for batch in batches:
            if batch:
                await stream.send(b"data: " + _encoded(batch) + b"\n\n")
    return stream.response


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half of a character, which JSON can hold as an escape only
        return json.dumps(value).encode()


ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/playground/api/catalogue", _catalogue),
    ("POST", "/playground/api/estimate", _estimate),
    ("POST", "/playground/api/render", _render),
    ("POST", "/playground/api/run", _run),
)


@cache
def pages() -> Mapping[str, tuple[bytes, str]]:
    """The files of the page by their paths, which need no key: content and type."""
    static = files("shoal.server.playground").joinpath("static")
    found = {f"/playground/static/{file.name}": file for file in static.iterdir() if "." in file.name}
    found["/"] = static.joinpath("index.html")
    return {path: (file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]) for path, file in found.items()}


async def page(request: web.Request) -> web.Response:
    content, type_ = pages()[request.path]
    return web.Response(body=content, content_type=type_, charset="utf-8", headers=_HEADERS)
