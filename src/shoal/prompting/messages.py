"""Conversations as data: the chat format everybody uses, to Messages."""

from typing import Any

from shoal.errors import UsageError
from shoal.runtime.types import Json, Message

_ROLES = ("system", "developer", "user", "assistant", "tool")


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Messages from a list of `{"role": ..., "content": ...}`; a bare string is one user turn.

    Content parts, tool calls and tool results are kept as they are. Raises UsageError saying which message is wrong.
    """
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        raise UsageError("messages must be a non-empty list of {role, content}")
    return tuple(_message(item, f"messages[{i}]") for i, item in enumerate(value))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise UsageError(f"{where} is not an object")
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise UsageError(f"{where}: role {role!r} is none of {', '.join(_ROLES)}")
    if content is not None and not isinstance(content, str | list):
        raise UsageError(f"{where}: content must be text or a list of parts")
    calls = item.get("tool_calls") or []
    return Message(
        role,
        Json.of(content) if isinstance(content, list) else content,
        name=item.get("name"),
        tool_call_id=item.get("tool_call_id"),
        tool_calls=tuple(Json.of(call) for call in calls),
    )
