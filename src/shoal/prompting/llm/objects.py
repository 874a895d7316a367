"""Built-ins that give typed values."""

import json
from collections.abc import Mapping
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


@builtin
async def generate_object(
    prompt: Prompt, cls: Any, *, retries: int = 2, system: str | None = None, **params: Unpack[Sampling]
) -> Any:
    """The answer as a `cls`: a dataclass, msgspec Struct, TypedDict, NamedTuple, pydantic model, enum, Literal, union,
    int, float, bool, str, list[...] or dict[str, ...].

    A backend that can is held to the type's JSON schema; another is shown it. What does not fit is put back to the
    model with the error, up to `retries` times; InvalidOutput where that does not help.
    """
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
        self._cls = cls
        self._pydantic = hasattr(cls, "model_json_schema") and hasattr(cls, "model_validate_json")
        try:
            schema = cls.model_json_schema() if self._pydantic else msgspec.json.schema(cls)
        except TypeError as error:
            raise UsageError(f"generate_object: {self.name} has no JSON schema: {error}") from None
        self._wrapped = not _is_object(schema)
        self.schema: dict[str, Any] = _wrapped(schema) if self._wrapped else schema

    def read(self, text: str) -> Any:
        """The value; ValueError says what does not fit."""
        data = _json_in(text)
        if self._wrapped and isinstance(data, dict) and data.keys() == {"value"}:
            data = data["value"]
        if self._pydantic:
            return self._cls.model_validate(data)  # its ValidationError is a ValueError
        return msgspec.convert(data, self._cls)  # and so is msgspec's


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


def _json_in(text: str) -> Any:
    """The JSON of a text that is JSON, has it in a fence, or has some prose around it."""
    stripped = text.strip().removeprefix("```json").removeprefix("```").strip()
    try:
        return _decoded(stripped)
    except ValueError:
        starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
        if not starts:
            raise
    return _decoded(text[min(starts) :])


def _decoded(text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
