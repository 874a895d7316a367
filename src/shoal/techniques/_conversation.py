"""Showing a whole conversation to a judge or an aggregator."""

from msgspec import structs

from shoal.runtime.types import Json, Message, Request, SamplingParams


def transcript(request: Request) -> str:
    """The conversation (or the bare prompt) as text, each turn under the name of who spoke."""
    if request.prompt is not None:
        return request.prompt
    return "\n\n".join(f"{message.role}: {_said(message)}" for message in request.messages)


def _said(message: Message) -> str:
    calls = "\n".join(f"(calls a tool: {call.text})" for call in message.tool_calls)
    return "\n".join(part for part in (message.text, calls) if part)


def aside(request: Request, text: str, **params: object) -> Request:
    """A question about the conversation, put outside it.

    Images of the conversation go along. The draw's name is kept, so that each draw gets a judgement of its own;
    sampling parameters are not: the user's limits and stop strings are meant for the answer.
    """
    content: str | Json = text
    images = [part for message in request.messages for part in _parts(message) if part.get("type") != "text"]
    if images:
        content = Json.of([*images, {"type": "text", "text": text}])
    settings = structs.replace(SamplingParams(), **params)
    return Request(messages=(Message("user", content),), params=settings, sample=request.sample)


def _parts(message: Message) -> list[dict[str, object]]:
    return message.content.value() if isinstance(message.content, Json) else []


def with_system(request: Request, text: str) -> Request:
    """The same conversation with `text` added to its system message."""
    if request.prompt is not None:
        return structs.replace(request, prompt=f"{text}\n\n{request.prompt}")
    first, *rest = request.messages or (Message("user", ""),)
    if first.role == "system" and isinstance(first.content, str):
        return structs.replace(request, messages=(Message("system", f"{first.content}\n\n{text}"), *rest))
    return structs.replace(request, messages=(Message("system", text), *request.messages))
