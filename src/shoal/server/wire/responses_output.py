"""Completions as replies of the Responses API, whole or event by event. Pure functions and the state of a stream."""

import secrets
import time
from typing import Any

import msgspec

from shoal.runtime.types import Completion, Delta
from shoal.server.refusals import Refusal
from shoal.server.wire.chat_output import Told, event, token_body, tool_calls
from shoal.server.wire.responses_input import Responses

_encode = msgspec.json.Encoder().encode
Item = dict[str, Any]


class ResponseReply:
    """What all that is told of one response shares."""

    def __init__(self, body: Responses) -> None:
        text = body.text
        form = msgspec.to_builtins(text.format) if text is not None and text.format is not None else {"type": "text"}
        self._created = int(time.time())
        self._echoed = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": self._created,
            "model": body.model,
            "background": False,
            "store": False,
            "previous_response_id": None,
            "instructions": body.instructions,
            "metadata": body.metadata or {},
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning is not None else None, "summary": None},
            "temperature": body.temperature,
            "text": {"format": {name: value for name, value in form.items() if value is not None}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [{"parameters": None, "strict": False, **tool} for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": "disabled",
        }

    def whole(self, completion: Completion, usage: dict[str, Any], told: Told) -> bytes:
        return _encode(self.ended(completion, output_items(completion), usage, told))

    def ended(self, completion: Completion, output: list[Item], usage: dict[str, Any], told: Told) -> dict[str, Any]:
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons.get(completion.finish_reason)
        return self.response(
            "incomplete" if reason else "completed",
            output,
            incomplete_details={"reason": reason} if reason else None,
            completed_at=None if reason else int(time.time()),
            usage=_usage(usage),
            shoal=told,
        )

    def response(self, status: str, output: list[Item], **more: Any) -> dict[str, Any]:
        ends = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        return {**self._echoed, **ends, "status": status, "output": output, **more}


def _usage(chat: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": chat["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": chat["total_tokens"],
    }


def output_items(completion: Completion) -> list[Item]:
    """What the model said, thought and calls, in order: reasoning, message, calls of functions."""
    items = [_reasoning_item(completion.reasoning)] if completion.reasoning else []
    if completion.text or not completion.tool_calls:
        tokens = [token_body(token) for token in completion.logprobs or ()]
        status = "incomplete" if completion.finish_reason == "length" else "completed"
        items.append(_message_item(completion.text, tokens, status))
    return items + call_items(completion)


def call_items(completion: Completion) -> list[Item]:
    items = []
    for call in tool_calls(completion):
        function = call["function"]
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{secrets.token_hex(12)}",
                "call_id": call["id"],
                "name": function["name"],
                "arguments": function["arguments"],
                "status": "completed",
            }
        )
    return items


def _reasoning_item(text: str) -> Item:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": f"rs_{secrets.token_hex(12)}", "summary": [], "content": content}


def _message_item(text: str, tokens: list[dict[str, Any]], status: str) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": tokens}
    return {
        "type": "message",
        "id": f"msg_{secrets.token_hex(12)}",
        "role": "assistant",
        "status": status,
        "content": [part],
    }


_NAMES = {"message": "response.output_text", "reasoning": "response.reasoning_text"}


class ResponseEvents:
    """The events of one response that streams, numbered; `output` is what the client has been told so far."""

    def __init__(self, reply: ResponseReply) -> None:
        self._reply = reply
        self._output: list[Item] = []
        self._open: Item | None = None
        self._sequence = 0

    def delta(self, delta: Delta) -> bytes:
        """A piece of text, or of what the model thinks before it. What it thinks after its text is left out."""
        if delta.text:
            return self._begun() + self._text("message", delta.text)
        if delta.reasoning and (self._open is None or self._open["type"] == "reasoning"):
            return self._begun() + self._text("reasoning", delta.reasoning)
        return b""

    def end(self, completion: Completion, usage: dict[str, Any], told: Told) -> bytes:
        events = self._begun()
        if not completion.tool_calls and (self._open is None or self._open["type"] != "message"):
            events += self._text("message", "")
        events += self._closed(completion)
        for item in call_items(completion):
            events += self._called(item)
        response = self._reply.ended(completion, self._output, usage, told)
        return events + self._event(f"response.{response['status']}", response=response)

    def failed(self, refusal: Refusal) -> bytes:
        """The response has failed; then, because some clients look for nothing else, an error."""
        code = "rate_limit_exceeded" if refusal.status == 429 else "server_error"
        error = {"code": code, "message": str(refusal)}
        response = self._reply.response("failed", self._output, error=error)
        flat = {"code": refusal.code, "message": str(refusal), "param": refusal.param}
        events = self._begun() + self._event("response.failed", response=response)
        return events + self._event("error", **flat, error={**flat, "type": refusal.kind})

    def _begun(self) -> bytes:
        if self._sequence:
            return b""
        response = self._reply.response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _text(self, kind: str, text: str) -> bytes:
        events = b""
        if self._open is None or self._open["type"] != kind:
            events += self._closed(None) + self._opened(kind)
        part = self._part()
        part["text"] += text
        if not text:
            return events
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return events + self._event(f"{_NAMES[kind]}.delta", **self._place(), delta=text, **more)

    def _opened(self, kind: str) -> bytes:
        item = _message_item("", [], "in_progress") if kind == "message" else _reasoning_item("")
        self._open = item
        self._output.append(item)
        index = len(self._output) - 1
        events = self._event("response.output_item.added", output_index=index, item={**item, "content": []})
        return events + self._event("response.content_part.added", **self._place(), part=self._part())

    def _closed(self, ending: Completion | None) -> bytes:
        item = self._open
        if item is None:
            return b""
        part, more = self._part(), {}
        if item["type"] == "message":
            short = ending is not None and ending.finish_reason == "length"
            item["status"] = "incomplete" if short else "completed"
            part["logprobs"] = [token_body(token) for token in (ending.logprobs if ending else None) or ()]
            more = {"logprobs": part["logprobs"]}
        events = self._event(f"{_NAMES[item['type']]}.done", **self._place(), text=part["text"], **more)
        events += self._event("response.content_part.done", **self._place(), part=part)
        index = len(self._output) - 1
        self._open = None
        return events + self._event("response.output_item.done", output_index=index, item=item)

    def _called(self, item: Item) -> bytes:
        self._output.append(item)
        place = {"item_id": item["id"], "output_index": len(self._output) - 1}
        index, arguments = place["output_index"], item["arguments"]
        begun = {**item, "arguments": "", "status": "in_progress"}
        name = "response.function_call_arguments"
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event(f"{name}.delta", **place, delta=arguments)
            + self._event(f"{name}.done", **place, arguments=arguments)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _part(self) -> dict[str, Any]:
        assert self._open is not None
        part: dict[str, Any] = self._open["content"][0]
        return part

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._output) - 1, "content_index": 0}

    def _event(self, name: str, **data: Any) -> bytes:
        told = event({"type": name, "sequence_number": self._sequence, **data}, name)
        self._sequence += 1
        return told
