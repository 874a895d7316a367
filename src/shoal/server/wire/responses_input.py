"""Bodies of the Responses API, as the chat bodies that mean the same. Pure functions.

The API is served without a memory: what needs one, or a tool that the provider itself would run, is refused.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from shoal.server.refusals import invalid, read_as
from shoal.server.wire.chat_input import Fields

Part = dict[str, Any]


class TextFormat(Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextConfig(Struct):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningConfig(Struct):
    effort: str | None = None


class Responses(Struct):
    """The body of POST /v1/responses."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    max_tool_calls: int | None = None
    truncation: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    n: int | None = None


# Fields that mean the same in both APIs.
_ALIKE = ("model", "temperature", "top_p", "parallel_tool_calls", "stream")
_KEYED = frozenset(Responses.__struct_fields__)
_LOGPROBS = "message.output_text.logprobs"


def responses_of(fields: Fields) -> Responses:
    """The body; Refusal where it asks for what is not done here."""
    body: Responses = read_as(msgspec.json.encode(fields), Responses)
    refused = {
        "previous_response_id": (body.previous_response_id, "no response is kept; send the whole conversation"),
        "conversation": (body.conversation, "no conversation is kept; send the whole of it as input"),
        "background": (body.background, "nothing is kept to be fetched later; use stream, or /v1/batches"),
        "prompt": (body.prompt, "no prompt templates are kept; send instructions and input"),
        "truncation": (body.truncation == "auto", "nothing is left out of an input; only 'disabled' is possible"),
        "n": (body.n not in (None, 1), "this API gives one answer; /v1/chat/completions gives several"),
    }
    for name, (asked, why) in refused.items():
        if asked:
            raise invalid(f"{name}: {why}", name)
    return body


def chat_fields(body: Responses, fields: Fields) -> dict[str, Any]:
    """The chat body that means the same. Fields that neither API has go along: techniques' options, and ours."""
    chat: dict[str, Any] = {name: value for name, value in fields.items() if name not in _KEYED or name in _ALIKE}
    chat["messages"] = _messages(body)
    chat["max_completion_tokens"] = body.max_output_tokens
    chat["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ())] or None
    chat["tool_choice"] = _tool_choice(body.tool_choice)
    if body.top_logprobs or _LOGPROBS in (body.include or ()):
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.reasoning is not None:
        chat["reasoning_effort"] = body.reasoning.effort
    if body.text is not None:
        chat |= {"response_format": _response_format(body.text.format), "verbosity": body.text.verbosity}
    return {name: value for name, value in chat.items() if value is not None}


def _response_format(form: TextFormat | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    if form.schema is None:
        raise invalid("text.format.schema is missing", "text.format.schema")
    schema = {"name": form.name or "answer", "schema": form.schema, "strict": form.strict}
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        kind = str(tool.get("type"))[:100]
        raise invalid(f"{where}.type: {kind!r} is not run here; tools are of type 'function'", f"{where}.type")
    if not isinstance(tool.get("name"), str):
        raise invalid(f"{where}.name is missing", f"{where}.name")
    named = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in named if tool.get(name) is not None}}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if choice is None or choice == "auto":
        return None
    if isinstance(choice, str):
        if choice not in ("none", "required"):
            raise invalid("tool_choice: 'none', 'auto', 'required' or a function", "tool_choice")
        return choice
    if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
        raise invalid("tool_choice: only {'type': 'function', 'name': ...} can be chosen here", "tool_choice")
    return {"type": "function", "function": {"name": choice["name"]}}


def _messages(body: Responses) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for i, item in enumerate(body.input):
        _add(messages, item, f"input[{i}]")
    return messages


def _add(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    kind = item.get("type") or "message"
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise invalid(f"{where}.role: user, assistant, system or developer", f"{where}.role")
        messages.append({"role": role, "content": _content(item.get("content"), role, f"{where}.content")})
    elif kind == "function_call":
        call = {"name": _text(item, "name", where), "arguments": _text(item, "arguments", where)}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        calls = messages[-1].setdefault("tool_calls", [])
        calls.append({"id": _text(item, "call_id", where), "type": "function", "function": call})
    elif kind == "function_call_output":
        output = _content(item.get("output"), "tool", f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": output})
    elif kind != "reasoning":  # how a model came to an earlier answer is not told to it again
        raise invalid(f"{where}.type: {str(kind)[:100]!r} is not understood here", f"{where}.type")


def _text(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise invalid(f"{where}.{name}: a text is needed", f"{where}.{name}")
    return value


def _content(content: Any, role: str, where: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{where}: a text or a list of parts is needed", where)
    parts = [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts) and (role != "user" or len(parts) == 1):
        return "".join(part["text"] for part in parts)
    if role != "user":
        raise invalid(f"{where}: only user messages may hold images", where)
    return parts


def _part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": _text(part, "text", where)}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", where)}
    if kind == "input_image" and part.get("image_url") is not None:
        detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
        return {"type": "image_url", "image_url": {"url": _text(part, "image_url", where), **detail}}
    raise invalid(f"{where}: text, or images by image_url, are understood here, not {str(kind)[:100]!r}", where)
