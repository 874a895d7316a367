"""Built-ins that give typed values."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import msgspec

from shoal.errors import InvalidOutput, UsageError
from shoal.prompting.llm.asking import Prompt, Sampling, capabilities, chat_request
from shoal.prompting.llm.text import completion
from shoal.prompting.template import prompt as library
from shoal.runtime import registry
from shoal.runtime.builtin import builtin
from shoal.runtime.model import then
from shoal.runtime.types import Message, Request

_MOST_VALUES = 100  # that are tried in the prose of one answer


@builtin
async def generate_object(
    prompt: Prompt, cls: Any, *, retries: int = 2, system: str | None = None, **params: Unpack[Sampling]
) -> Any:
    """The answer as a `cls`: a dataclass, msgspec Struct, TypedDict, NamedTuple, pydantic model, enum, Literal, union,
    int, float, bool, str, list[...] or dict[str, ...].

    A backend that can is held to the type's JSON schema; another is shown it. What does not fit is put back to the
    model with the error, up to `retries` times; InvalidOutput where that does not help.
    """
    if retries < 0:
        raise UsageError(f"retries={retries} is below 0")
    form = Form(cls)
    request = chat_request(prompt, system, params)
    if capabilities(registry.current().model).json_schema:
        params["json_schema"] = form.schema
    else:
        request = _shown(request, form)
    for attempt in range(retries + 1):
        said = (await completion(request.messages, **params)).text
        try:
            return form.read(said)
        except ValueError as error:
            if attempt == retries:
                raise InvalidOutput(
                    f"no {form.name} in {retries + 1} answers; the last: {error}: {said[:200]!r}"
                ) from None
            request = then(request, said, library("mend_json").fill({"error": error}))
    raise AssertionError


def _shown(request: Request, form: "Form") -> Request:
    *before, last = request.messages
    text = library("as_json").fill({"instruction": last.text, "schema": json.dumps(form.schema)})
    return Request(messages=(*before, Message(last.role, text)), params=request.params)


class Form:
    """A type as JSON schema, and how to read it from what a model wrote.

    What is no object stands in one, as `value`: servers hold answers to objects only.
    """

    def __init__(self, cls: Any) -> None:
        self.name = getattr(cls, "__name__", str(cls))
        try:
            self._read, schema = _reader(cls)
        except (TypeError, NameError, RuntimeError, ValueError) as error:
            said = str(error).strip().split("\n", 1)[0]
            raise UsageError(f"generate_object: {self.name} has no JSON schema: {said}") from None
        self._wrapped = not _is_object(schema)
        self.schema: dict[str, Any] = _wrapped(schema) if self._wrapped else schema

    def read(self, text: str) -> Any:
        """The value: of several in a text with prose around them, the last that fits. ValueError says what does not."""
        wrong: ValueError | None = None
        for data in reversed(json_in(text)):
            try:
                return self._fitted(data)
            except ValueError as error:
                wrong = wrong or error
            except RecursionError:
                wrong = wrong or ValueError("nested too deeply")
        raise wrong or ValueError("not JSON")

    def _fitted(self, data: Any) -> Any:
        if self._wrapped and isinstance(data, dict) and data.keys() == {"value"}:
            data = data["value"]
        return self._read(json.dumps(data, ensure_ascii=False).encode())  # half a surrogate pair is a ValueError too


def _reader(cls: Any) -> tuple[Callable[[bytes], Any], dict[str, Any]]:
    """How a type is read from JSON, and its schema: by msgspec, or by pydantic where it holds models of that."""
    if hasattr(cls, "model_json_schema") and hasattr(cls, "model_validate_json"):
        return cls.model_validate_json, cls.model_json_schema()
    try:
        return msgspec.json.Decoder(cls).decode, msgspec.json.schema(cls)
    except TypeError:
        if "pydantic" not in sys.modules:
            raise
    from pydantic import TypeAdapter

    adapter = TypeAdapter(cls)
    return adapter.validate_json, adapter.json_schema()


def _is_object(schema: Mapping[str, Any]) -> bool:
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return (schema["$defs"][name] if name else schema).get("type") == "object"


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
    return {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    } | definitions


def decode_json(text: str) -> Any:
    """The value that a text is, held to JSON (no NaN); ValueError where it is none or nested too deeply."""
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_in(text: str) -> list[Any]:
    """The JSON values of a text: the one that it is or has in a fence, else the objects and arrays in its prose.

    ValueError where there is none.
    """
    stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    wrong: Exception
    try:
        return [decode_json(stripped)]
    except ValueError as error:
        wrong = error
    found, at = [], 0
    for _ in range(_MOST_VALUES):
        start = min((place for place in (text.find("{", at), text.find("[", at)) if place >= 0), default=-1)
        if start < 0:
            break
        try:
            value, at = _decoder.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError) as error:
            wrong, at = error, start + 1
    if not found:
        raise ValueError(f"not JSON ({wrong})")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
