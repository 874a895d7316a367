"""Calls of tools in what a model wrote: which of the common forms its template speaks; the plainest two, to be read.

What is not a whole call stays text. Nothing that a model wrote is carried out or imported here.
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from shoal.backends.tools import Tools, parameters_of
from shoal.runtime.types import Json

Form = Literal["hermes", "llama3_json"]  # as `vllm serve --tool-call-parser` calls them
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_PYTHON_TAG = "<|python_tag|>"
MARKS = (_OPEN, _CLOSE)
WHITE_SPACE = 2  # characters in a row of a call that is forced


class Found(Struct, frozen=True):
    """A call: the function's name, its arguments as the text of a JSON object, the `id` that it was written with."""

    name: str
    arguments: str
    id: str | None = None


def form_of(template: str) -> str | None:
    """The name of the form in which a chat template writes calls, where it is a common one."""
    if _OPEN in template:
        if "<function=" in template:
            return "qwen3_coder"
        if "<arg_key>" in template:
            return "glm45"
        return "hermes" if "name" in template and "arguments" in template else None
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|start_header_id|>" in template and (_PYTHON_TAG in template or '"parameters"' in template):
        return "llama3_json"
    return None


def read(form: Form, text: str) -> tuple[str, list[Found]]:
    """The text before the calls, and the calls; all is text where one of them is no whole call."""
    try:
        before, found = _READERS[form](text)
    except (ValueError, RecursionError):
        return text, []
    return (before if before.strip() else "", found) if found else (text, [])


def forced(form: Form, template: str, tools: Tools) -> str:
    """The constraint, a structural tag of xgrammar's, of a reply that is calls alone, as the template writes them."""
    line = "\n" if f"{_OPEN}\n" in template or rf"{_OPEN}\n" in template else ""
    head, arguments, foot, between = {
        "hermes": (f"{_OPEN}{line}", "arguments", f"{line}{_CLOSE}", line),
        "llama3_json": ("", "parameters", "", "; "),
    }[form]
    tags = [
        {
            "type": "tag",
            "begin": f'{head}{{"name": {json.dumps(name)}, "{arguments}": ',
            "content": {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": WHITE_SPACE},
            "end": f"}}{foot}",
        }
        for name, schema in parameters_of(tools).items()
        if tools.function in ("", name)
    ]
    several = tools.several and tools.choice == "required"
    calls = {"type": "tags_with_separator", "tags": tags, "separator": between, "at_least_one": True}
    return json.dumps({"type": "structural_tag", "format": {**calls, "stop_after_first": not several}})


def as_wire(calls: Iterable[Found], prompt: Sequence[int]) -> tuple[Json, ...]:
    """Calls as the OpenAI API has them. Their ids follow from the prompt and the call: a draw again has the same."""
    return tuple(
        Json.in_order(
            {
                "id": call.id or _id(prompt, i, call),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
        )
        for i, call in enumerate(calls)
    )


def _id(prompt: Sequence[int], place: int, call: Found) -> str:
    return "call_" + blake2b(repr((list(prompt), place, call)).encode(), digest_size=12).hexdigest()


class Before:
    """What of a reply on its way is sure to be text before its calls."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._text = ""

    def feed(self, text: str) -> str:
        """All of it that is sure by now, from the reply's beginning."""
        self._text += text
        begun = self._text.lstrip()
        if self._form == "hermes":
            sure = self._text[: _end(self._text)]
            return sure if sure.strip() else ""
        return "" if begun.startswith(("{", _PYTHON_TAG)) or _PYTHON_TAG.startswith(begun) else self._text


def _end(text: str) -> int:
    """Where the first mark of a call begins, or may begin."""
    place = text.find(_OPEN)
    if place >= 0:
        return place
    held = next((size for size in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:size])), 0)
    return len(text) - held


class _Call(Struct):
    name: str
    arguments: Raw = Raw()
    parameters: Raw = Raw()


_decode = msgspec.json.Decoder(_Call | list[_Call]).decode


def _calls(text: str) -> list[Found]:
    """One call or a list of them. ValueError where it is neither."""
    read = _decode(text)
    found = []
    for call in read if isinstance(read, list) else [read]:
        arguments = (bytes(call.arguments) or bytes(call.parameters)).decode().strip()
        if not arguments.startswith("{"):
            raise ValueError("the arguments are no object")
        found.append(Found(call.name, arguments))
    return found


def _hermes(text: str) -> tuple[str, list[Found]]:
    before, *parts = text.split(_OPEN)
    return before, [call for part in parts for call in _calls(part.partition(_CLOSE)[0])]


def _llama3(text: str) -> tuple[str, list[Found]]:
    """Objects, one after the other, `;` between them."""
    rest = text.strip().removeprefix(_PYTHON_TAG).strip()
    if not rest.startswith("{"):
        return text, []
    found: list[Found] = []
    while rest:
        _, end = json.JSONDecoder().raw_decode(rest)
        found += _calls(rest[:end])
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    return "", found


_READERS = {"hermes": _hermes, "llama3_json": _llama3}
