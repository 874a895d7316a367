"""Completions as replies of Anthropic's Messages API, whole or event by event, and its errors."""

import secrets
from typing import Any

import msgspec

from shoal.runtime.types import Completion, Delta, Usage
from shoal.server.refusals import Refusal
from shoal.server.wire.chat_output import Told, event, tool_calls, usage_body

_encode = msgspec.json.Encoder().encode
Block = dict[str, Any]

_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """An error in this API's shape."""
    kind = _ERRORS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(refusal)}, "request_id": request_id}


class MessageReply:
    """What all that is told of one message shares. `thinks`: whether what the model thinks is shown."""

    def __init__(self, model: str, *, thinks: bool) -> None:
        self._head = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model}
        self.thinks = thinks

    def whole(self, completion: Completion, usage: dict[str, Any], told: Told) -> bytes:
        content = [_thinking(completion.reasoning)] if completion.reasoning and self.thinks else []
        if completion.text or not completion.tool_calls:
            content.append({"type": "text", "text": completion.text})
        content += _tool_uses(completion)
        return _encode({**self._head, "content": content, **stopped(completion), "usage": _usage(usage), "shoal": told})

    def start(self) -> dict[str, Any]:
        """The message before anything of it is there. What it costs is only known at its end."""
        usage = _usage(usage_body(Usage(), 0))
        return {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def stopped(completion: Completion) -> dict[str, Any]:
    """Why the message ends. Servers do not say which stop sequence it was, so none is named: it is an end of turn."""
    reason = "tool_use" if completion.tool_calls else _STOP_REASONS.get(completion.finish_reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(chat: dict[str, Any]) -> dict[str, Any]:
    thinking = chat["completion_tokens_details"]["reasoning_tokens"]
    return {
        "input_tokens": chat["prompt_tokens"],
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"thinking_tokens": thinking},
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _thinking(text: str) -> Block:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _tool_uses(completion: Completion) -> list[Block]:
    return [
        {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": _object(call)}
        for call in tool_calls(completion)
    ]


def _object(call: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments. Those that are no JSON object, as a weak model may write them, are told as they are."""
    arguments = call["function"]["arguments"]
    try:
        value = msgspec.json.decode(arguments) if arguments else {}
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}


class MessageEvents:
    """The events of one message that streams."""

    def __init__(self, reply: MessageReply, request_id: str) -> None:
        self._reply = reply
        self._request_id = request_id
        self._index = -1
        self._open: str | None = None
        self._started = False

    def delta(self, delta: Delta) -> bytes:
        """A piece of text, or of what the model thinks before it."""
        if delta.text:
            return self._in("text", {"type": "text", "text": ""}, {"type": "text_delta", "text": delta.text})
        if delta.reasoning and self._reply.thinks and self._open in (None, "thinking"):
            return self._in("thinking", _thinking(""), {"type": "thinking_delta", "thinking": delta.reasoning})
        return b""

    def end(self, completion: Completion, usage: dict[str, Any], told: Told) -> bytes:
        events = b""
        if self._open != "text" and not completion.tool_calls:
            events += self._in("text", {"type": "text", "text": ""}, None)
        events += self._begun() + self._closed()
        for use in _tool_uses(completion):
            arguments = _encode(use["input"]).decode()
            events += self._in(
                "tool_use", {**use, "input": {}}, {"type": "input_json_delta", "partial_json": arguments}
            )
            events += self._closed()
        events += _event("message_delta", delta=stopped(completion), usage=_usage(usage), shoal=told)
        return events + _event("message_stop")

    def failed(self, refusal: Refusal) -> bytes:
        return event(error_body(refusal, self._request_id), "error")

    def _begun(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return _event("message_start", message=self._reply.start()) + _event("ping")

    def _in(self, kind: str, empty: Block, delta: dict[str, Any] | None) -> bytes:
        """A delta of the open block, or of a new one where that is of another kind."""
        events = b""
        if self._open != kind:
            events += self._begun() + self._closed()
            self._index += 1
            self._open = kind
            events += _event("content_block_start", index=self._index, content_block=empty)
        return events + (_event("content_block_delta", index=self._index, delta=delta) if delta is not None else b"")

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        events = b""
        if self._open == "thinking":
            signed = {"type": "signature_delta", "signature": ""}
            events += _event("content_block_delta", index=self._index, delta=signed)
        self._open = None
        return events + _event("content_block_stop", index=self._index)


def _event(name: str, **data: Any) -> bytes:
    return event({"type": name, **data}, name)
