"""Requests that pass through: to the model's server as they came, and back as it answers."""

from contextlib import aclosing
from functools import partial

from aiohttp import web

from shoal.backends.relay import Api, Passed, Passing, Relays, prompt_tokens
from shoal.errors import ShoalError
from shoal.runtime.budget import Budget
from shoal.runtime.types import Usage
from shoal.server.endpoints.asked import Asked
from shoal.server.http.streams import EventStream
from shoal.server.limits import refuse_dear
from shoal.server.refusals import refusal_of
from shoal.server.service import Timed
from shoal.server.wire.chat_input import Fields, with_preset, without_own
from shoal.server.wire.chat_output import error_event

_LONGEST_ID = 200


async def relayed(request: web.Request, api: Api, asked: Asked, relay: Relays) -> web.StreamResponse:
    """The answer of the model's server, as it came."""
    if not asked.common.stream:
        passed = await passed_on(api, asked, relay)
        id_ = passed.headers.get("x-request-id", "")
        sayable = 0 < len(id_) <= _LONGEST_ID and id_.isascii() and id_.isprintable()
        headers = {"x-upstream-request-id": id_} if sayable else {}
        return web.Response(body=passed.body, headers=headers, content_type="application/json")
    fields, budget = _prepared(asked)
    with asked.caller.admitted(budget, partial(_lost, asked, fields, budget)):
        async with EventStream(request) as stream:
            try:
                async with Timed(budget), relay.stream(api, fields) as passing:
                    await _streamed_on(passing, stream, budget)
            except ShoalError as error:
                if not stream.begun:
                    raise
                refusal = refusal_of(error)
                await stream.fail(refusal, error_event(refusal))
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
    with asked.caller.admitted(budget, partial(_lost, asked, fields, budget)):
        async with Timed(budget):
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
