"""Comparing replies by the final answers in them, whatever form those were asked in."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from shoal.prompting.answers import extract, normalise
from shoal.runtime.types import Completion, Json, Request


def short_answer(request: Request, reply: Completion, kind: str = "auto") -> str | None:
    """The answer that a reply ends in: what a technique determined, the tools it calls, its JSON, or what it states.

    None where none can be found. A reply that was cut off has an answer only if it states one.
    """
    if reply.tool_calls:
        return Json.of([_without_id(call.value()) for call in reply.tool_calls]).text
    if request.params.json_schema is not None:
        return _as_json(reply.text)
    if reply.answer is not None:
        return reply.answer
    return extract(reply.text, kind, cut_off=reply.finish_reason == "length")


def short_form(request: Request, answer: str, kind: str = "auto") -> str:
    """The form in which two short answers are compared."""
    return answer if request.params.json_schema is not None else normalise(answer, kind)


def support(forms: Sequence[str | None]) -> list[int]:
    """How many of the forms are the same as each; a missing one has no support and gives none."""
    counts = Counter(form for form in forms if form is not None)
    return [0 if form is None else counts[form] for form in forms]


def forms_of(request: Request, replies: Sequence[Completion], kind: str = "auto") -> list[str | None]:
    """What each reply votes for, in the form in which votes are compared; None where it has no answer."""
    answers = [short_answer(request, reply, kind) for reply in replies]
    return [None if answer is None else short_form(request, answer, kind) for answer in answers]


def _as_json(text: str) -> str | None:
    try:
        return Json.of(msgspec.json.decode(text)).text
    except msgspec.DecodeError:
        return None


def _without_id(call: object) -> object:
    """A tool call without the name that the server gave to this one."""
    return {key: value for key, value in call.items() if key != "id"} if isinstance(call, dict) else call
