"""JSON schemas before they are sent: whether a grammar compiler keeps all of one, whether the official API takes it."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from shoal.errors import BadRequest
from shoal.runtime.types import Json

_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "propertyNames", "contains", "if", "then", "else")
# What compilers of grammars pass over in silence: the text would not keep it.
_NEVER = frozenset({"multipleOf", "not", "uniqueItems", "contains", "if", "patternProperties", "dependentSchemas"})
UNANCHORED = "pattern without ^ and $"
_LENGTHS = ("minLength", "maxLength")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# The keywords that the official API's strict mode has no use for.
_NOT_STRICT = frozenset({"allOf", "oneOf", "not", "if", "dependentSchemas", "prefixItems", "uniqueItems"})
_NOT_STRICT |= {"patternProperties", "propertyNames", "contains", "minProperties", "maxProperties", "default"}


def check_enforced(schema: Json | None, passed_over: frozenset[str], engine: str) -> None:
    """BadRequest where a schema asks for what the engine's grammar would not keep, `passed_over` among it."""
    if schema is not None and (problem := _problem(schema, passed_over)):
        raise BadRequest(f"json_schema: grammars of this engine cannot keep {problem}", endpoint=engine)


@lru_cache(maxsize=256)
def _problem(schema: Json, passed_over: frozenset[str]) -> str:
    for where, part in _parts(schema.value(), "#"):
        if missed := sorted((_NEVER | passed_over) & part.keys()):
            return f"{missed[0]} at {where}"
        if "pattern" in part and any(name in part for name in _LENGTHS):
            return f"pattern and length together at {where}"
        if UNANCHORED in passed_over and not re.fullmatch(r"\^.*\$", part.get("pattern", "^$"), re.DOTALL):
            return f"a pattern without ^ and $ at {where}"
        if part.get("type") == "number" and any(name in part for name in _BOUNDS):
            return f"bounds of a number that is no integer at {where}"
    return ""


@lru_cache(maxsize=256)
def fits_strict(schema: Json) -> bool:
    """Whether the official API takes the schema in strict mode: closed objects with every property required."""
    whole = schema.value()
    if not isinstance(whole, dict) or "anyOf" in whole:
        return False
    if whole.get("type") != "object" and not _refers_to_object(whole):
        return False
    return all(_strict(part) for _, part in _parts(whole, "#"))


def _refers_to_object(whole: dict[str, Any]) -> bool:
    name = str(whole.get("$ref", "")).removeprefix("#/$defs/")
    found = whole.get("$defs", {}).get(name)
    return isinstance(found, dict) and found.get("type") == "object"


def _strict(part: dict[str, Any]) -> bool:
    if _NOT_STRICT & part.keys():
        return False
    if part.get("type") == "object" or "properties" in part:
        closed = part.get("additionalProperties") is False
        return closed and set(part.get("required", ())) == set(part.get("properties", ()))
    return bool({"type", "enum", "const", "anyOf", "$ref"} & part.keys())


def _parts(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, and its place."""
    if not isinstance(schema, dict):
        return
    yield where, schema
    for name in _MAPS:
        inner = schema.get(name)
        for key, part in inner.items() if isinstance(inner, dict) else ():
            yield from _parts(part, f"{where}/{name}/{key}")
    for name in _LISTS:
        inner = schema.get(name)
        for i, part in enumerate(inner if isinstance(inner, list) else ()):
            yield from _parts(part, f"{where}/{name}/{i}")
    for name in _SINGLE:
        yield from _parts(schema.get(name), f"{where}/{name}")


@lru_cache(maxsize=256)
def without_closed_tuples(schema: Json) -> Json:
    """The schema without `"items": false` beside `prefixItems`, which llama.cpp takes for granted and cannot read."""
    value = schema.value()
    found = [part for _, part in _parts(value, "#") if part.get("items") is False and "prefixItems" in part]
    for part in found:
        del part["items"]
    return Json.in_order(value) if found else schema
