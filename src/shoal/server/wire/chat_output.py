"""Completions as the bodies and stream chunks of the chat completions API. Pure functions."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from shoal.runtime.limits import estimated_tokens
from shoal.runtime.trace import Span
from shoal.runtime.types import Completion, TokenLogprob, Usage, total
from shoal.server.refusals import Refusal

_encode = msgspec.json.Encoder().encode


class Told(Struct, frozen=True):
    """What is said of how an answer came about, under the key `shoal`. `cost` in dollars, where prices are known."""

    base: str
    technique: str | None
    calls: int
    cached_calls: int
    critical_path: int
    seconds: float
    answer: str | None = None
    confidence: float | None = None
    estimated: bool = False
    cost: float | None = None


class ChatReply:
    """The head that all parts of one reply share."""

    def __init__(self, model: str, *, prefix: str = "chatcmpl-", object_: str = "chat.completion") -> None:
        self.id = f"{prefix}{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self.object = object_

    def whole(self, completions: Sequence[Completion], usage: dict[str, Any], told: Told) -> bytes:
        choices = [_choice(i, completion) for i, completion in enumerate(completions)]
        return _encode(self._body("", choices=choices, usage=usage, shoal=told))

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return event(self._body(".chunk", choices=[choice], **more))

    def last_chunk(self, usage: dict[str, Any]) -> bytes:
        return event(self._body(".chunk", choices=[], usage=usage))

    def _body(self, suffix: str, **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": self.object + suffix, "created": self.created, "model": self.model}
        return {**head, **more}


def event(data: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + (data if isinstance(data, bytes) else _encode(data)) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def error_event(refusal: Refusal) -> bytes:
    """The last event of a stream that failed."""
    return event(refusal.body(), "error")


def _choice(index: int, completion: Completion) -> dict[str, Any]:
    return {
        "index": index,
        "message": message_of(completion),
        "logprobs": logprobs(completion.logprobs),
        "finish_reason": finish_reason(completion),
    }


def finish_reason(completion: Completion) -> str:
    return "tool_calls" if completion.tool_calls and completion.finish_reason == "stop" else completion.finish_reason


def message_of(completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text or None, "refusal": None}
    if not completion.text and not completion.tool_calls:
        message["content"] = ""
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = tool_calls(completion)
    return message


def tool_calls(completion: Completion) -> list[dict[str, Any]]:
    """The calls as the API has them; one that came without an id is given one."""
    calls = []
    for call in completion.tool_calls:
        value = call.value()
        calls.append({"type": "function", **value, "id": value.get("id") or f"call_{secrets.token_hex(8)}"})
    return calls


def logprobs(tokens: tuple[TokenLogprob, ...] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {"content": [token_body(token) for token in tokens], "refusal": None}


def token_body(token: TokenLogprob) -> dict[str, Any]:
    """A token with its alternatives, as the API has them."""
    top = [_alternative(text, logprob) for text, logprob in token.top]
    return {**_alternative(token.token, token.logprob), "top_logprobs": top}


def _alternative(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def usage_body(usage: Usage, final_tokens: int) -> dict[str, Any]:
    """The API's `usage`: all that was generated is completion tokens, what is not in the answer is reasoning."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": max(0, usage.completion_tokens - final_tokens)},
    }


def final_tokens(completion: Completion, trace: Span | None) -> int:
    """The tokens of the text a client gets: those of the call it came from, else an estimate by its length."""
    calls = trace.calls() if trace is not None else []
    done = [call.completion for call in calls if call.completion and call.completion.text == completion.text]
    source = done[-1] if done else completion
    generated = source.usage.completion_tokens
    if not done and trace is not None:
        estimated = estimated_tokens(len(completion.text))
        generated = min(total(c.completion.usage for c in calls if c.completion).completion_tokens, estimated)
    if not source.reasoning:
        return generated
    chars = len(source.text) + len(source.reasoning)
    return generated * len(source.text) // chars if chars else generated
