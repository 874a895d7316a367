"""Comparing replies by the final answers in them, whatever form those were asked in."""

import json
from collections import Counter
from collections.abc import Sequence

from shoal.prompting.answers import extract, normalise
from shoal.prompting.answers.markup import without_reasoning
from shoal.runtime.types import Completion, Request

_EXACT = 2.0**53  # a float below it is the whole number it looks like


def answer_and_form(request: Request, reply: Completion, kind: str = "auto") -> tuple[str | None, str | None]:
    """The answer that a reply ends in, and the form in which it is compared with others.

    It is the tools it calls, its JSON, the choice it makes, what a technique determined, or what it states. Both are
    None where none can be found. A reply that was cut off has an answer only if it states one.
    """
    params, cut_off = request.params, reply.finish_reason == "length"
    if reply.tool_calls:
        called = _canonical([_what_is_called(call.value()) for call in reply.tool_calls])
        return called, called
    shown = (without_reasoning(reply.text) or "").strip()
    if params.json_schema is not None:
        value = _as_json(reply.text) or _as_json(shown)
        whole = not cut_off or not shown[-1:].isdigit()  # "12" may have been to be 1234
        return (value, value) if whole else (None, None)
    if params.choices and shown in map(str.strip, params.choices):  # as they stand: "Yes" and "True" are two choices
        return shown, shown
    answer = reply.answer
    if answer is None:
        answer = extract(reply.text, kind, cut_off=cut_off)
    if answer is None and shown and not cut_off and kind in ("auto", "text") and (params.regex or params.grammar):
        return shown, shown  # all of it has the form of an answer
    return answer, None if answer is None else normalise(answer, kind)


def short_answer(request: Request, reply: Completion, kind: str = "auto") -> str | None:
    """The answer that a reply ends in; None where none can be found."""
    return answer_and_form(request, reply, kind)[0]


def support(forms: Sequence[str | None]) -> list[int]:
    """How many of the forms are the same as each; a missing one has no support and gives none."""
    counts = Counter(form for form in forms if form is not None)
    return [0 if form is None else counts[form] for form in forms]


def forms_of(request: Request, replies: Sequence[Completion], kind: str = "auto") -> list[str | None]:
    """What each reply votes for, in the form in which votes are compared; None where it has no answer."""
    return [answer_and_form(request, reply, kind)[1] for reply in replies]


def _as_json(text: str) -> str | None:
    """A JSON text in the form that all texts of the same value have; None where it is none."""
    try:
        canonical = _canonical(json.loads(text, parse_float=_number, parse_constant=_no_number))
        canonical.encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return canonical


def _canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _number(text: str) -> float | int:
    """1.0 is the same number as 1."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


def _what_is_called(call: object) -> object:
    """A tool call without the name and number that the server gave to this one, its arguments as canonical JSON."""
    if not isinstance(call, dict):
        return call
    call = {key: value for key, value in call.items() if key not in ("id", "index")}
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        arguments = _as_json(function["arguments"])
        call["function"] = {**function, "arguments": arguments or function["arguments"]}
    return call
