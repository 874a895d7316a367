"""Bodies of Anthropic's Messages API, as the chat bodies that mean the same. Pure functions."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from shoal.server.refusals import invalid, read_as
from shoal.server.wire.chat_input import Fields

Block = dict[str, Any]


class Turn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class ToolChoice(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Struct):
    type: str
    display: str | None = None


class OutputFormat(Struct):
    schema: dict[str, Any]
    type: Literal["json_schema"] = "json_schema"


class OutputConfig(Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(Struct):
    user_id: str | None = None


class Messages(Struct):
    """The body of POST /v1/messages, and of count_tokens, which needs no max_tokens."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    thinking: Thinking | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    mcp_servers: list[Any] | None = None
    container: Any = None
    n: int | None = None

    @property
    def shows_thinking(self) -> bool:
        thinking = self.thinking
        return thinking is not None and thinking.type != "disabled" and thinking.display != "omitted"


# Fields that mean the same in both APIs; those of Anthropic's that say how its own service is to run; the others read.
_ALIKE = ("model", "temperature", "top_p", "top_k", "stream")
_OF_ITS_SERVICE = (
    *("cache_control", "service_tier", "inference_geo", "speed", "diagnostics", "context_management"),
    *("user_profile_id", "workspace_id", "betas"),
)
_KEYED = frozenset((*Messages.__struct_fields__, *_OF_ITS_SERVICE))


def messages_of(fields: Fields) -> Messages:
    """The body; Refusal where it asks for what is not done here."""
    body: Messages = read_as(msgspec.json.encode(fields), Messages)
    if body.mcp_servers or body.container:
        name = "mcp_servers" if body.mcp_servers else "container"
        raise invalid(f"{name}: no tools of the server's own are run here", name)
    if body.n not in (None, 1):
        raise invalid("n: this API gives one answer; /v1/chat/completions gives several", "n")
    return body


def chat_fields(body: Messages, fields: Fields) -> dict[str, Any]:
    """The chat body that means the same. Fields that neither API has go along: techniques' options, and ours."""
    chat: dict[str, Any] = {name: value for name, value in fields.items() if name not in _KEYED or name in _ALIKE}
    chat["messages"] = _chat_messages(body)
    chat["max_tokens"] = body.max_tokens
    chat["stop"] = body.stop_sequences
    chat["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ())] or None
    if body.tool_choice is not None:
        chat["tool_choice"] = _tool_choice(body.tool_choice)
        chat["parallel_tool_calls"] = False if body.tool_choice.disable_parallel_tool_use else None
    output = body.output_config or OutputConfig()
    form = output.format or body.output_format
    if form is not None:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema}}
    chat["reasoning_effort"] = output.effort
    chat["user"] = body.metadata.user_id if body.metadata is not None else None
    return {name: value for name, value in chat.items() if value is not None}


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise invalid(f"{where}.type: {str(tool['type'])[:100]!r} is not run here; tools are your own", f"{where}.type")
    if not isinstance(tool.get("name"), str) or not isinstance(tool.get("input_schema"), dict):
        raise invalid(f"{where}: a tool has a name and an input_schema", where)
    described = {"description": tool["description"]} if tool.get("description") is not None else {}
    function = {"name": tool["name"], **described, "parameters": tool["input_schema"]}
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any] | None:
    if choice.type == "tool":
        if choice.name is None:
            raise invalid("tool_choice.name is missing", "tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}
    return {"auto": None, "any": "required", "none": "none"}[choice.type]


def _chat_messages(body: Messages) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.system:
        messages.append({"role": "system", "content": _joined(body.system, "system")})
    for i, turn in enumerate(body.messages):
        messages += _turn(turn, f"messages[{i}].content")
    return messages


def _turn(turn: Turn, where: str) -> list[dict[str, Any]]:
    """A turn as chat messages: the results of tools each have their own."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    if turn.role == "system":
        return [{"role": "system", "content": _joined(turn.content, where)}]
    if turn.role == "assistant":
        return [_assistant(turn.content, where)]
    results: list[dict[str, Any]] = []
    parts: list[Block] = []
    for i, block in enumerate(turn.content):
        at = f"{where}[{i}]"
        if block.get("type") == "tool_result":
            text, images = _result(block, at)
            results.append({"role": "tool", "tool_call_id": _text(block, "tool_use_id", at), "content": text})
            parts += images
        else:
            parts.append(_part(block, at))
    content = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
    return [*results, {"role": "user", "content": content}] if parts or not results else results


def _assistant(blocks: list[Block], where: str) -> dict[str, Any]:
    texts, calls = [], []
    for i, block in enumerate(blocks):
        at, kind = f"{where}[{i}]", block.get("type")
        if kind == "tool_use":
            arguments = msgspec.json.encode(block.get("input") or {}).decode()
            function = {"name": _text(block, "name", at), "arguments": arguments}
            calls.append({"id": _text(block, "id", at), "type": "function", "function": function})
        elif kind == "text":
            texts.append(_text(block, "text", at))
        elif kind not in ("thinking", "redacted_thinking"):  # what a model thought is not told to it again
            raise invalid(f"{at}.type: {str(kind)[:100]!r} is not understood here", f"{at}.type")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    return {**message, "tool_calls": calls} if calls else {**message, "content": message["content"] or ""}


def _result(block: Block, where: str) -> tuple[str, list[Block]]:
    """The text of a tool's result, and its images, which only a user's turn can hold."""
    content = block.get("content") or ""
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        parts = [_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
    else:
        raise invalid(f"{where}.content: a text or a list of blocks is needed", f"{where}.content")
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    failed = "Error: " if block.get("is_error") is True else ""
    return failed + text, [part for part in parts if part["type"] != "text"]


def _part(block: Any, where: str) -> Block:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return {"type": "text", "text": _text(block, "text", where)}
    source = block.get("source") if kind == "image" else None
    if isinstance(source, dict) and source.get("type") == "base64":
        kind_of_image = _text(source, "media_type", f"{where}.source")
        url = f"data:{kind_of_image};base64,{_text(source, 'data', f'{where}.source')}"
        return {"type": "image_url", "image_url": {"url": url}}
    if isinstance(source, dict) and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": _text(source, "url", f"{where}.source")}}
    raise invalid(f"{where}: text, and images in base64 or by url, are understood here, not {str(kind)[:100]!r}", where)


def _joined(content: str | list[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(_text(block, "text", f"{where}[{i}]") for i, block in enumerate(content))


def _text(block: Block, name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise invalid(f"{where}.{name}: a text is needed", f"{where}.{name}")
    return value
