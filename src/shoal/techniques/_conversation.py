"""Showing a whole conversation to a judge, and putting work on it without losing any of it."""

from msgspec import structs

from shoal.prompting.answers.markup import without_reasoning
from shoal.runtime.types import Completion, Json, Message, Request, SamplingParams


def transcript(request: Request) -> str:
    """The conversation (or the bare prompt) as text, each turn under the name of who spoke."""
    if request.prompt is not None:
        return request.prompt
    return "\n\n".join(f"{message.role}: {_shown(message)}" for message in request.messages)


def said(completion: Completion) -> str:
    """What a reply says as text without the reasoning before it, the tools it calls, and whether it breaks off."""
    parts = [(without_reasoning(completion.text) or "").strip(), *_calls(completion.tool_calls)]
    if completion.finish_reason == "length":
        parts.append("(cut off here: it was too long)")
    return "\n".join(filter(None, parts))


def _shown(message: Message) -> str:
    return "\n".join(filter(None, [message.text, *_calls(message.tool_calls)]))


def _calls(calls: tuple[Json, ...]) -> list[str]:
    return [f"(calls a tool: {call.text})" for call in calls]


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
    if request.messages and request.messages[0].role in ("system", "developer"):  # many models take one such turn only
        first, *rest = request.messages
        return structs.replace(request, messages=(_extended(first, text), *rest))
    return structs.replace(request, messages=(Message("system", text), *request.messages))


def instructed(request: Request, text: str) -> Request:
    """The same conversation with `text` after what was said last: in the user's last turn, or in a turn of its own."""
    if request.prompt is not None:
        return structs.replace(request, prompt=f"{request.prompt}\n\n{text}")
    last = request.messages[-1] if request.messages else None
    if last is None or last.role != "user":  # the result of a tool, say, stands last
        return structs.replace(request, messages=(*request.messages, Message("user", text)))
    return structs.replace(request, messages=(*request.messages[:-1], _extended(last, text)))


def _extended(message: Message, text: str) -> Message:
    if isinstance(message.content, Json):
        return structs.replace(message, content=Json.of([*_parts(message), {"type": "text", "text": text}]))
    return structs.replace(message, content=f"{message.content or ''}\n\n{text}".strip())


def thinking(request: Request) -> Request:
    """The same conversation, for work that is not the answer itself.

    It may be sampled as the user said, but the form of the answer (tools, constraint, stop strings, length,
    log-probabilities, further wire fields) is not asked of it.
    """
    asked = request.params
    settings = SamplingParams(
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p,
        seed=asked.seed,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
    )
    return structs.replace(request, params=settings, tools=())


def fits(request: Request, text: str) -> bool:
    """Whether a text is surely no longer than the user allows: it has at most as many tokens as bytes.

    The tokens counted for it would not do: of a draw from the cache there are none.
    """
    longest = request.params.max_tokens
    return longest is None or len(text.encode("utf-8", "replace")) <= longest


def has_form(request: Request) -> bool:
    """Whether the user asked for a form that only a call for the answer itself can give: see `thinking`."""
    params = structs.replace(request.params, max_tokens=None)  # a length is kept where the work is short enough
    return bool(request.tools) or thinking(request).params != params
