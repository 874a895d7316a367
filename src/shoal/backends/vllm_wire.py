"""What vLLM's server can beyond the OpenAI API, as bytes: tokens of a prompt, and their log-probabilities."""

from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from shoal.backends.openai_errors import Server
from shoal.backends.openai_wire import (
    CONTINUE,
    Dialect,
    begun,
    from_wire_chat,
    from_wire_text,
    to_wire_chat,
    to_wire_text,
    wire_messages,
)
from shoal.errors import BadRequest
from shoal.runtime.backend import Draws, continues
from shoal.runtime.types import Completion, Json, Message, Request, SamplingParams, TokenLogprob

_encode = msgspec.json.Encoder().encode


class _Count(Struct):
    count: int


class _Token(Struct):
    logprob: float
    decoded_token: str | None = None


_Tokens = list[dict[str, _Token] | None] | None


class _Choice(Struct):
    prompt_logprobs: _Tokens = None


class _Scored(Struct):
    """Chat has the prompt's tokens beside its choices, text completions in them."""

    choices: list[_Choice]
    prompt_logprobs: _Tokens = None


_decode_count = msgspec.json.Decoder(_Count).decode
_decode_scored = msgspec.json.Decoder(_Scored).decode


def count_body(model: str, request: Request) -> bytes:
    """For /tokenize."""
    if request.prompt is not None:
        return _encode({"model": model, "prompt": request.prompt})
    body: dict[str, Any] = {"model": model, "messages": wire_messages(request)}
    if request.tools:
        body["tools"] = [Raw(tool.text.encode()) for tool in request.tools]
    if begun(request):
        body.update(CONTINUE)
    return _encode(body)


def count_of(reply: bytes, server: Server) -> int:
    try:
        return _decode_count(reply).count
    except ValueError as error:
        raise server.malformed(f"no count of tokens: {error}") from None


def scored_body(model: str, request: Request, dialect: Dialect) -> bytes:
    """A request whose prompt ends with the only choice, for the log-probabilities of the prompt's own tokens."""
    draws = Draws(_with_choice(request))
    if request.prompt is None:
        return to_wire_chat(model, draws, dialect=dialect)
    return to_wire_text(model, [draws], dialect=dialect)


def _with_choice(request: Request) -> Request:
    (choice,) = request.params.choices
    extra = request.params.extra.value() if request.params.extra else {}
    params = SamplingParams(temperature=0.0, max_tokens=1, extra=Json.of({**extra, "prompt_logprobs": 0}))
    if request.prompt is not None:
        return Request(prompt=request.prompt + choice, params=params)
    turns, beginning = request.messages, ""
    if continues(request):
        turns, beginning = turns[:-1], turns[-1].text
    return Request((*turns, Message("assistant", beginning + choice)), params=params, tools=request.tools)


def scored(reply: bytes, request: Request, server: Server) -> Completion:
    """The choice as if it had been drawn: the last tokens of the prompt, which must spell it."""
    draws = Draws(request)
    from_wire = from_wire_chat(reply, draws, server) if request.prompt is None else None
    (outcome,) = from_wire or from_wire_text(reply, [draws], server)
    assert isinstance(outcome, list)
    try:
        found = _decode_scored(reply)
    except ValueError as error:
        raise server.malformed(f"unreadable prompt_logprobs: {error}") from None
    tokens = found.prompt_logprobs or found.choices[0].prompt_logprobs
    if not tokens:
        raise server.malformed("no prompt_logprobs in the reply")
    whole = _last(tokens, request.params.choices[0], server)
    kept = whole[: request.params.max_tokens]
    reason = "stop" if len(kept) == len(whole) else "length"
    text = "".join(token.token for token in kept)
    return structs.replace(outcome[0], text=text, finish_reason=reason, logprobs=tuple(kept), reasoning=None)


def _last(tokens: list[dict[str, _Token] | None], choice: str, server: Server) -> list[TokenLogprob]:
    found: list[TokenLogprob] = []
    length = 0
    for position in reversed(tokens):
        if length >= len(choice) or not position:
            break
        token = next(iter(position.values()))  # the prompt's own token; the likeliest, where asked for, come after
        found.insert(0, TokenLogprob(token.decoded_token or "", token.logprob))
        length += len(token.decoded_token or "")
    if "".join(token.token for token in found) != choice:
        raise BadRequest(f"the choice {choice!r} shares a token with what is before it", endpoint=server.name)
    return found
