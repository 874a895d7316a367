"""Requests and replies of the OpenAI API as bytes: pure functions, no connection.

A reply counts only when it is whole: valid JSON with every choice finished. Anything else is a MalformedResponse.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from shoal.backends.openai_errors import Server, error_of, retry_after
from shoal.backends.openai_usage import present, share_usage
from shoal.backends.schemas import fits_strict, without_closed_tuples
from shoal.runtime.backend import Draws, Outcome, continues
from shoal.runtime.types import Completion, Json, Message, Request, SamplingParams, TokenLogprob

__all__ = [
    "Dialect",
    "Server",
    "error_of",
    "from_wire_chat",
    "from_wire_text",
    "retry_after",
    "to_wire_chat",
    "to_wire_text",
]

_encode = msgspec.json.Encoder().encode
# What the caller's own fields must not change: they are what the reply is checked against.
_OURS = frozenset({"model", "messages", "prompt", "n", "stream", "stream_options"})


# How vLLM is told that the last message is the beginning of the reply.
CONTINUE = {"add_generation_prompt": False, "continue_final_message": True}
_NO_HEADERS: Mapping[str, str] = {}


class Dialect(Struct, frozen=True):
    """How a server spells what servers spell differently.

    `constraints` is the spelling of regex, choices and grammar: "vllm", "llamacpp", or None for a server without them.
    """

    max_tokens: str = "max_tokens"
    constraints: str | None = None


OPENAI = Dialect()


# Requests


def to_wire_chat(model: str, draws: Draws, *, dialect: Dialect = OPENAI, stream: bool = False) -> bytes:
    """The body of a chat completion request for n draws of one conversation."""
    request = draws.request
    body: dict[str, Any] = {"model": model, "messages": wire_messages(request)}
    body.update(_params(request.params, dialect, chat=True))
    if dialect.constraints == "vllm" and begun(request):
        body.update(CONTINUE)
    if request.tools:
        body["tools"] = [Raw(tool.text.encode()) for tool in request.tools]
    return _finished(body, request, draws.n, stream)


def to_wire_text(model: str, batch: Sequence[Draws], *, dialect: Dialect = OPENAI, stream: bool = False) -> bytes:
    """The body of a text completion request for n draws of each prompt. Params and n are those of the first."""
    first = batch[0]
    prompts = [draws.request.prompt for draws in batch]
    body: dict[str, Any] = {"model": model, "prompt": prompts[0] if len(prompts) == 1 else prompts}
    body.update(_params(first.request.params, dialect, chat=False))
    return _finished(body, first.request, first.n, stream)


def _finished(body: dict[str, Any], request: Request, n: int, stream: bool) -> bytes:
    if n > 1:
        body["n"] = n
    if request.params.seed is not None:
        body["seed"] = wire_seed(request)
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return _encode(body)


def wire_seed(request: Request) -> int | None:
    """The seed of this draw: the caller's own for the first, one derived from it for each other sample path."""
    seed = request.params.seed
    if seed is None or not request.sample:
        return seed
    digest = hashlib.blake2b(repr((seed, request.sample)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1  # 31 bits: what every server takes


def begun(request: Request) -> bool:
    """Whether the reply has a beginning that it is to continue."""
    return continues(request) and bool(request.messages[-1].text)


def wire_messages(request: Request) -> list[Message | dict[str, Any]]:
    """The turns as the API has them; a reply that begins with nothing is one that has not begun."""
    turns = request.messages
    if continues(request) and not turns[-1].text and not turns[-1].tool_calls:
        turns = turns[:-1]
    return [_message(message) for message in turns]


def _message(message: Message) -> Message | dict[str, Any]:
    if type(message.content) is str and not message.tool_calls:
        return message  # its own JSON is the wire's
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if isinstance(message.content, Json):
        wire["content"] = Raw(message.content.text.encode())
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [Raw(call.text.encode()) for call in message.tool_calls]
    return wire


@lru_cache(maxsize=256)
def _params(params: SamplingParams, dialect: Dialect, *, chat: bool) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
    body: dict[str, Any] = {name: value for name in names if (value := getattr(params, name)) is not None}
    if params.max_tokens is not None:
        body[dialect.max_tokens if chat else "max_tokens"] = params.max_tokens
    if params.stop:
        body["stop"] = params.stop
    if params.logprobs or params.top_logprobs:
        # A text completion's `logprobs` counts alternatives, and some servers take 0 for "none at all".
        body["logprobs"] = True if chat else max(1, params.top_logprobs)
        if chat and params.top_logprobs:
            body["top_logprobs"] = params.top_logprobs
    body.update(_constraint(params, dialect))
    if params.extra is not None:
        body.update((name, value) for name, value in params.extra.value().items() if name not in _OURS)
    return body


def _constraint(params: SamplingParams, dialect: Dialect) -> dict[str, Any]:
    if params.json_schema is not None:
        json_schema = params.json_schema
        if dialect.constraints == "llamacpp":
            json_schema = without_closed_tuples(json_schema)
        # The official API refuses a schema that does not fit its strict mode; other servers keep it in any case.
        strict = dialect.constraints is not None or fits_strict(json_schema)
        schema = {"name": "answer", "strict": strict, "schema": Raw(json_schema.text.encode())}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if dialect.constraints == "vllm":
        for name, value in (("regex", params.regex), ("choice", params.choices), ("grammar", params.grammar)):
            if value:
                return {"structured_outputs": {name: value}}
    if dialect.constraints == "llamacpp" and (params.grammar or params.choices):
        return {"grammar": params.grammar or _gbnf(params.choices)}
    return {}


def _gbnf(choices: Sequence[str]) -> str:
    """A llama.cpp grammar of exactly these texts."""
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
    return "root ::= " + " | ".join(f'"{choice.translate(escapes)}"' for choice in choices)


# Replies


class WireMessage(Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class WireChoice(Struct):
    index: int | None = None
    finish_reason: str | None = None
    message: WireMessage | None = None
    text: str | None = None
    logprobs: Raw = Raw()


class WireReply(Struct):
    choices: list[WireChoice] | None = None
    id: Any = None  # a text where a server keeps to the API
    model: str | None = None
    usage: Raw = Raw()
    error: Raw = Raw()


_decode = msgspec.json.Decoder(WireReply).decode


def from_wire_chat(
    body: bytes, draws: Draws, server: Server, headers: Mapping[str, str] = _NO_HEADERS
) -> list[Outcome]:
    """The draws that a chat reply (status 200) holds: as many as asked, or fewer where the server gave fewer."""
    reply = _whole(body, headers, server)
    completions = [_completion(choice, server) for choice in _in_order(reply.choices, draws.n, server)]
    return [*share_usage([draws], [completions], reply.usage, reply.model or server.model, as_id(reply.id))]


def from_wire_text(
    body: bytes, batch: Sequence[Draws], server: Server, headers: Mapping[str, str] = _NO_HEADERS
) -> list[Outcome]:
    """The draws that a text reply (status 200) holds, for each prompt; choice i * n + j is draw j of prompt i."""
    reply = _whole(body, headers, server)
    n = batch[0].n
    choices = _in_order(reply.choices, n * len(batch), server)
    if len(batch) > 1 and len(choices) != n * len(batch):
        raise server.malformed(f"{len(choices)} choices for {len(batch)} prompts x {n}")
    completions = [_completion(choice, server) for choice in choices]
    calls = [completions] if len(batch) == 1 else [completions[i * n : i * n + n] for i in range(len(batch))]
    return [*share_usage(batch, calls, reply.usage, reply.model or server.model, as_id(reply.id))]


def as_id(value: Any) -> str | None:
    """A reply's id, where it has one that can be told."""
    return str(value) if isinstance(value, str | int) else None


def _whole(body: bytes, headers: Mapping[str, str], server: Server) -> WireReply:
    kind = headers.get("content-type") or "json"
    if "json" not in kind.lower():
        raise server.malformed(f"expected JSON, got {kind[:60]}")
    try:
        reply = _decode(body)
    except (ValueError, RecursionError) as error:
        raise server.malformed(f"not a reply of this API: {error}") from None
    if present(reply.error):
        raise error_of(200, headers, body, server)
    if not reply.choices:
        raise server.malformed("no choices in the reply")
    return reply


def _in_order(choices: list[WireChoice] | None, asked: int, server: Server) -> list[WireChoice]:
    """The choices by index. A lone choice may come without one."""
    assert choices
    if len(choices) > asked:
        raise server.malformed(f"{len(choices)} choices where {asked} were asked")
    if len(choices) == 1 and choices[0].index is None:
        return choices
    by_index = {choice.index: choice for choice in choices}
    if len(by_index) < len(choices):
        raise server.malformed("two choices with one index")
    try:
        return [by_index[index] for index in sorted(_valid(by_index, asked))]
    except ValueError:
        raise server.malformed("a choice with an index nobody asked for") from None


def _valid(indices: Mapping[int | None, WireChoice], asked: int) -> list[int]:
    valid = [index for index in indices if index is not None and 0 <= index < asked]
    if len(valid) < len(indices):
        raise ValueError
    return valid


def _completion(choice: WireChoice, server: Server) -> Completion:
    if not choice.finish_reason:
        raise server.malformed("a choice without finish_reason")
    message = choice.message or WireMessage()
    content = choice.text if choice.message is None else message.content
    reasoning = message.reasoning_content or message.reasoning or None
    if content is None:
        content = message.refusal
    # Where the reply was cut while the model was still reasoning, or was filtered, there is no text to have.
    if content is None and not message.tool_calls and choice.finish_reason not in ("length", "content_filter"):
        raise server.malformed("a choice without content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return Completion(
        content or "",
        choice.finish_reason,
        logprobs=token_logprobs(choice.logprobs, server) if present(choice.logprobs) else None,
        tool_calls=tuple(map(Json.of, message.tool_calls)) if message.tool_calls else (),
        reasoning=reasoning,
    )


class _Alternative(Struct):
    token: str
    logprob: float


class _ChatToken(Struct):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(Struct):
    """The chat API's shape (`content`) or the text API's (parallel lists)."""

    content: list[_ChatToken] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


_decode_logprobs = msgspec.json.Decoder(_Logprobs | None).decode


def token_logprobs(raw: Raw, server: Server) -> tuple[TokenLogprob, ...] | None:
    """Log-probabilities in either of the API's two shapes."""
    try:
        wire = _decode_logprobs(raw)
    except (ValueError, RecursionError) as error:
        raise server.malformed(f"unreadable logprobs: {error}") from None
    if wire is None:
        return None
    if wire.content is not None:
        return tuple(
            TokenLogprob(t.token, t.logprob, tuple((a.token, a.logprob) for a in t.top_logprobs or ()))
            for t in wire.content
        )
    if wire.tokens is None or wire.token_logprobs is None or len(wire.tokens) != len(wire.token_logprobs):
        return None
    tops = wire.top_logprobs or [None] * len(wire.tokens)
    return tuple(
        TokenLogprob(token, logprob, tuple((top or {}).items()))
        for token, logprob, top in zip(wire.tokens, wire.token_logprobs, tops, strict=False)
        if logprob is not None  # the first token of an echoed prompt has none
    )
