"""The grammar of model specs: `self_consistency(n=8)@best_of_n@openai/gpt-x`.

    spec      = { technique "@" } base
    technique = slug [ "(" option "=" value { "," option "=" value } ")" ]
    base      = "local" | PROVIDER "/" MODEL

A prefix is a technique only if the catalogue knows it. Values are numbers, true, false, text, a spec or `[spec, ...]`.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from shoal.errors import UsageError, did_you_mean
from shoal.runtime.model import Model, apply
from shoal.techniques import Entry, find, names

_PREFIX = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)
OpenBase = Callable[[str], Model]


def parse_spec(spec: str, open_base: OpenBase) -> Model:
    """The Model a spec names. `open_base` opens what is left when the techniques are taken off, here and in options."""
    head, at, rest = _split(spec, "@")
    match = _PREFIX.fullmatch(head) if at else None
    if match and "/" not in match[1]:
        entry = find(match[1])
        if entry is None:
            raise UsageError(f"unknown technique {match[1]!r} in {spec!r}; {did_you_mean(match[1], names())}")
        options = _options(match[1], entry, match[2] or "", open_base)
        return apply(entry.function, parse_spec(rest, open_base), **options)
    return open_base(spec.strip())


def join_spec(technique: str | None, base: str) -> str:
    """The spec of a technique on a base; either may already be nested."""
    return f"{technique}@{base}" if technique else base


def _split(text: str, separator: str) -> tuple[str, str, str]:
    """Like str.partition, but not inside brackets."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == separator and depth == 0:
            return text[:i], separator, text[i + 1 :]
    return text, "", ""


def _pieces(text: str) -> list[str]:
    pieces = []
    while text.strip():
        piece, _, text = _split(text, ",")
        pieces.append(piece.strip())
    return pieces


def _options(name: str, entry: Entry, text: str, open_base: OpenBase) -> dict[str, Any]:
    hints = typing.get_type_hints(entry.function)
    options: dict[str, Any] = {}
    for piece in _pieces(text):
        option, equals, value = (part.strip() for part in _split(piece, "="))
        if not equals:
            raise UsageError(f"{name}({text}): {piece!r} should be option=value; options: {', '.join(entry.options)}")
        if option not in entry.options:
            raise UsageError(f"{name} has no option {option!r}; {did_you_mean(option, entry.options)}")
        options[option] = _value(f"{name}({option}={value})", value, hints[option], open_base)
    return options


def _value(where: str, text: str, hint: Any, open_base: OpenBase) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() == "none" and type(None) in kinds:
        return None
    for kind in kinds:
        if kind is Model:
            return parse_spec(text, open_base)
        if typing.get_origin(kind) is Sequence and typing.get_args(kind) == (Model,):
            return [parse_spec(piece, open_base) for piece in _pieces(text.removeprefix("[").removesuffix("]"))]
        if kind in _PLAIN:
            return _plain(where, text, kind)
    raise UsageError(f"{where}: this option can only be given from Python")


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_PLAIN: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: _boolean, str: str}


def _plain(where: str, text: str, kind: Any) -> Any:
    try:
        return _PLAIN[kind](text.strip("'\"") if kind is str else text)
    except (ValueError, KeyError):
        raise UsageError(f"{where}: {text!r} is not {_A[kind]}") from None


_A = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def describe_options(entry: Entry) -> str:
    """`n=4, judge=None`, as it stands in the technique's signature."""
    parameters = inspect.signature(entry.function).parameters.values()
    return ", ".join(f"{p.name}={p.default!r}" for p in parameters if p.kind is p.KEYWORD_ONLY)
