"""POST /v1/chat/completions and /v1/completions: passed on unread to a model's server, or answered here.

A request for a model behind a server goes there as it came. One for a technique, or for a model in this process, is
read, answered through the model, and written as the API has it.
"""

from contextlib import aclosing
from functools import partial
from typing import Any

from aiohttp import web

from shoal.backends.relay import Api, Passed, Passing, Relays, prompt_tokens
from shoal.errors import ShoalError
from shoal.runtime.budget import Budget
from shoal.runtime.types import Completion, Usage, total
from shoal.server.bodies import (
    Common,
    Fields,
    chat_request,
    read_once,
    technique_options,
    with_preset,
    without_own,
)
from shoal.server.keys import Caller
from shoal.server.limits import refuse_dear
from shoal.server.names import Served
from shoal.server.optillm import NO_TECHNIQUE
from shoal.server.refusals import invalid, read_as, refusal_of
from shoal.server.replies import DONE, Replying, final_tokens, finish_reason, logprobs, tool_calls, usage_body
from shoal.server.service import Call, Piece, Service, Work, timed
from shoal.server.streams import EventStream
from shoal.techniques import TECHNIQUES

OPTION_NAMES = frozenset(
    f"{prefix}{option}"
    for slug, entry in TECHNIQUES.items()
    for option in entry.options
    for prefix in ("", *(f"{name}_" for name in (slug, *entry.aliases)))
) - {"n", "stop", "logprobs"}
_NO_NAMES: frozenset[str] = frozenset()
_PASSED_BACK = ("x-request-id",)
_LONGEST_HEADER = 200


class Asked:
    """A body of the chat or text API, and who is to answer it."""

    def __init__(self, body: bytes, caller: Caller, service: Service) -> None:
        self.fields, self.body = read_once(body)
        self.common: Common = read_as(self.body, Common)
        own, approach = self.common.shoal, self.common.optillm_approach
        technique = own.technique or (approach if approach not in NO_TECHNIQUE else None)
        self.served = service.names.resolve(self.common.model, technique)
        names = OPTION_NAMES if self.served.base is None else _NO_NAMES
        options = technique_options(self.fields, own, names) if self.served.base is None else own.options
        if options:
            self.served = service.names.resolve(self.common.model, technique, options)
        self.caller = caller
        self.service = service
        self.known = names
        if self.n > service.settings.max_n:
            raise invalid(f"n={self.n}: at most {service.settings.max_n} answers to a request", "n")
        caller.check(self.served)

    @property
    def n(self) -> int:
        return self.common.n or 1

    @property
    def relay(self) -> Relays | None:
        return self.served.base.relay if self.served.base is not None else None

    @property
    def to_server(self) -> bool:
        """Whether all that answers is behind servers, which may know fields that we do not."""
        return not any(base.relay is None for base in _bases(self.served))

    def chat_call(self) -> Call:
        request = chat_request(self.fields, self.body, self.served.preset, to_server=self.to_server, known=self.known)
        most = self.service.settings.max_messages
        if len(request.messages) > most:
            raise invalid(f"messages: {len(request.messages)} are more than the {most} allowed", "messages")
        return Call(self.served, request, self.caller, self.common.shoal, self.n)


def _bases(served: Served) -> list[Any]:
    from shoal.techniques.opening import bases

    return list(bases(served.model))


async def chat_completions(request: web.Request, service: Service, caller: Caller) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    asked = Asked(await request.read(), caller, service)
    if asked.relay is not None:
        return await relayed(request, "chat/completions", asked, asked.relay)
    call = asked.chat_call()
    if asked.common.stream:
        return await _streamed(request, asked, call)
    return web.Response(body=_whole(asked, *await service.complete(call)), content_type="application/json")


async def whole_chat(asked: Asked) -> bytes:
    """The reply to a chat request that does not stream, whoever gives it."""
    if asked.relay is not None:
        return (await passed_on("chat/completions", asked, asked.relay)).body
    return _whole(asked, *await asked.service.complete(asked.chat_call()))


def _whole(asked: Asked, completions: list[Completion], work: Work) -> bytes:
    shown = completions
    if asked.common.n is None and "|" in (work.call.served.technique or ""):
        shown = [*completions, *completions[0].alternatives]  # one choice from each technique, as optillm has it
    return Replying(asked.common.model).whole(shown, usage_of(completions, work, shown), work.told(completions))


def usage_of(completions: list[Completion], work: Work, shown: list[Completion] | None = None) -> dict[str, Any]:
    """The API's `usage` of answers, of which the client sees those `shown`, by default all."""
    final = sum(final_tokens(completion, work.trace) for completion in (shown or completions))
    return usage_body(total(completion.usage for completion in completions), final)


async def _streamed(request: web.Request, asked: Asked, call: Call) -> web.StreamResponse:
    """The answer of this process, event by event."""
    replying = Replying(asked.common.model)
    pieces = asked.service.stream(call)
    work = await anext(pieces)
    assert isinstance(work, Work)
    done: list[Completion] = []
    quick = call.served.base is None
    async with EventStream(request, begin_after=2.0 if quick else 8.0, progress=work.progress) as stream:
        try:
            begun: set[int] = set()
            async for piece in pieces:
                assert isinstance(piece, Piece)
                if piece.index not in begun:
                    begun.add(piece.index)
                    await stream.send(replying.chunk(piece.index, {"role": "assistant", "content": ""}))
                await stream.send(_chunk(replying, piece, work))
                if isinstance(piece.part, Completion):
                    done.append(piece.part)
            if asked.common.stream_options is not None and asked.common.stream_options.include_usage:
                await stream.send(replying.last_chunk(usage_of(done, work)))
            await stream.send(DONE)
        except ShoalError as error:
            if not stream.begun:
                raise
            await stream.fail(refusal_of(error))
        finally:
            await pieces.aclose()
    return stream.response


def _chunk(replying: Replying, piece: Piece, work: Work) -> bytes:
    part = piece.part
    if not isinstance(part, Completion):
        delta = {"content": part.text} if part.text else {}
        if part.reasoning:
            delta["reasoning_content"] = part.reasoning
        return replying.chunk(piece.index, delta)
    last: dict[str, Any] = {}
    if part.tool_calls:
        last["tool_calls"] = [{"index": i, **call} for i, call in enumerate(tool_calls(part))]
    # Which delta holds which token is not known here: all come at the end.
    return replying.chunk(piece.index, last, finish_reason(part), logprobs(part.logprobs), shoal=work.told([part]))


async def relayed(request: web.Request, api: Api, asked: Asked, relay: Relays) -> web.StreamResponse:
    """The answer of the model's server, as it came."""
    if not asked.common.stream:
        passed = await passed_on(api, asked, relay)
        return web.Response(body=passed.body, headers=_back(passed.headers), content_type="application/json")
    fields, budget = _prepared(asked)
    async with asked.caller.admitted(budget, partial(_lost, asked, fields, budget)):
        async with EventStream(request) as stream:
            try:
                async with timed(budget), relay.stream(api, fields) as passing:
                    await _streamed_on(passing, stream, budget)
            except ShoalError as error:
                if not stream.begun:
                    raise
                await stream.fail(refusal_of(error))
        return stream.response


async def _streamed_on(passing: Passing, stream: EventStream, budget: Budget) -> None:
    try:
        async with aclosing(passing.chunks()) as chunks:
            async for chunk in chunks:
                await stream.send(chunk)
    finally:
        budget.spent = passing.usage


async def passed_on(api: Api, asked: Asked, relay: Relays) -> Passed:
    """The whole reply of the model's server."""
    fields, budget = _prepared(asked)
    async with asked.caller.admitted(budget, partial(_lost, asked, fields, budget)):
        async with timed(budget):
            passed = await relay.post(api, fields)
        budget.spent = passed.usage
        return passed


def _prepared(asked: Asked) -> tuple[Fields, Budget]:
    """What the model's server is sent, and what it may cost."""
    fields = without_own(with_preset(asked.fields, asked.served.preset))
    budget = asked.service.budget(asked.common.shoal)
    refuse_dear(fields, asked.n, budget, asked.service.settings)
    return fields, budget


def _lost(asked: Asked, fields: Fields, budget: Budget) -> Usage:
    """About what a request cost that was broken off before its server said so."""
    return Usage(prompt_tokens(fields), 0, asked.n, estimated=True) if budget.spent == Usage() else Usage()


def _back(headers: Any) -> dict[str, str]:
    """Of the server's headers, those that are for the client, where they are what one may say."""
    told = {name: headers[name] for name in _PASSED_BACK if name in headers}
    return {
        f"x-upstream-{name.removeprefix('x-')}": value
        for name, value in told.items()
        if len(value) <= _LONGEST_HEADER and value.isascii() and value.isprintable()
    }
