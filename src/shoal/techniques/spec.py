"""The grammar of model specs: `self_consistency(n=8)@re_reading&best_of_n@openai/gpt-x`.

    spec      = { combined "@" } base
    combined  = piped { "|" piped }              all at once; the first one answers
    piped     = stage { "&" stage }              one after another, each going over the answer before
    stage     = technique | "(" combined { "@" combined } ")"
    technique = slug [ "(" option "=" value { "," option "=" value } ")" ]
    base      = "local" | PROVIDER "/" MODEL

A prefix is a technique only if the catalogue knows it. Values are numbers, true, false, text, a spec or `[spec, ...]`.
"""

import ast
import inspect
import re
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from shoal.errors import UsageError, did_you_mean
from shoal.runtime.model import Model, Technique, apply
from shoal.techniques import Entry, find, names, options_of
from shoal.techniques.combining import nested, pipeline, side_by_side

_TECHNIQUE = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)
OpenBase = Callable[[str], Model]


def parse_spec(spec: str, open_base: OpenBase) -> Model:
    """The Model a spec names. `open_base` opens what is left when the techniques are taken off, here and in options."""
    head, at, rest = _split(spec, "@")
    if not _is_prefix(head, at):
        return open_base(spec.strip())
    if _level_at_end(head):
        raise UsageError(f"{spec!r}: a bracket or quote has no partner")
    if not at:
        raise UsageError(f"{spec!r} names no model; write {spec.strip()}@MODEL")
    return _on(_Reader(spec, open_base).combined(head), parse_spec(rest, open_base))


def _is_prefix(head: str, at: str) -> bool:
    """Whether the text before the first "@" is meant as techniques, not as (part of) the name of a model."""
    outside = "".join(character for character, level in zip(head, _levels(head), strict=True) if level <= 0)
    if "/" in outside:
        return False
    combined = re.search(r"[&|]|^\s*\(", outside) is not None
    return combined or bool(at and _TECHNIQUE.fullmatch(head)) or ("(" in head and _level_at_end(head) > 0)


def _on(technique: Technique, model: Model) -> Model:
    """A technique on a model, as one that was applied with its options: (a@b)@model is a@b@model."""
    if not isinstance(technique, partial):
        return apply(technique, model)
    if technique.func is not nested:
        return apply(technique.func, model, **technique.keywords)
    for stage in reversed(technique.keywords["stages"]):
        model = _on(stage, model)
    return model


class _Reader:
    """Reads the techniques of one spec."""

    def __init__(self, spec: str, open_base: OpenBase) -> None:
        self.spec = spec
        self.open_base = open_base

    def combined(self, text: str) -> Technique:
        return _joined(side_by_side, [self._piped(piece) for piece in self._between(text, "|")])

    def _piped(self, text: str) -> Technique:
        return _joined(pipeline, [self._stage(piece) for piece in self._between(text, "&")])

    def _stage(self, text: str) -> Technique:
        if text.startswith("(") and text.endswith(")"):
            inside = self._between(text[1:-1], "@")
            return _joined(nested, [self.combined(piece) for piece in inside])
        name, given = name_and_options(text)
        if name in ("", "local"):
            raise UsageError(f"{text!r} in {self.spec!r} is no technique; only the end of a spec names a model")
        entry = find(name)
        if entry is None:
            raise UsageError(f"unknown technique {name!r} in {self.spec!r}; {did_you_mean(name, names())}")
        options = read_options(name, entry.function, given, self.open_base)
        return partial(entry.function, **options) if options else entry.function

    def _between(self, text: str, sign: str) -> list[str]:
        """The pieces of a text with `sign` between them, none of them empty."""
        pieces, more = [], sign
        while more:
            piece, more, text = _split(text, sign)
            pieces.append(piece.strip())
        if not all(pieces):
            where = f"beside {sign!r}" if len(pieces) > 1 else "in the brackets"
            raise UsageError(f"{self.spec!r}: a technique is missing {where}")
        return pieces


def _joined(combination: Technique, stages: list[Technique]) -> Technique:
    return stages[0] if len(stages) == 1 else partial(combination, stages=stages)


def join_spec(technique: str | None, base: str) -> str:
    """The spec of a technique on a base; either may already be nested."""
    return f"{technique}@{base}" if technique else base


def _split(text: str, separator: str) -> tuple[str, str, str]:
    """Like str.partition, but not inside brackets or quotes."""
    for i, level in enumerate(_levels(text)):
        if text[i] == separator and level == 0:
            return text[:i], separator, text[i + 1 :]
    return text, "", ""


def _levels(text: str) -> list[int]:
    """How many brackets and quotes stand around each character. A quote opens only right after "="."""
    levels: list[int] = []
    depth, quote, before = 0, "", ""
    for character in text:
        depth -= not quote and character in ")]"
        levels.append(depth + bool(quote))
        depth += not quote and character in "(["
        if quote:
            quote = "" if character == quote and before != "\\" else quote
        elif character in "'\"" and before == "=":
            quote = character
        if quote or character != " ":
            before = "" if before == "\\" else character
    return levels


def _level_at_end(text: str) -> int:
    """How many brackets and quotes a text leaves open."""
    return _levels(f"{text} ")[-1]


def _pieces(text: str) -> list[str]:
    pieces = []
    while text.strip():
        piece, _, text = _split(text, ",")
        pieces.append(piece.strip())
    return pieces


def name_and_options(text: str) -> tuple[str, str]:
    """The two parts of `name(option=value, ...)`; the name is empty where the text is nothing of that form."""
    match = _TECHNIQUE.fullmatch(text)
    return (match[1], match[2] or "") if match else ("", "")


def read_options(name: str, function: Callable[..., Any], text: str, open_base: OpenBase) -> dict[str, Any]:
    """The options that stand between the brackets, of the types that the function declares.

    UsageError, which calls the function `name`, says what is wrong with one. `open_base` opens the models they name.
    """
    hints, known = typing.get_type_hints(function), options_of(function)
    options: dict[str, Any] = {}
    for piece in _pieces(text):
        option, equals, value = (part.strip() for part in _split(piece, "="))
        if not equals:
            raise UsageError(f"{name}({text}): {piece!r} should be option=value; options: {', '.join(known) or 'none'}")
        if option not in known:
            raise UsageError(f"{name} has no option {option!r}; {did_you_mean(option, known)}")
        if option in options:
            raise UsageError(f"{name}({text}): {option} is given twice")
        options[option] = _value(f"{name}({option}={value})", value, hints[option], open_base)
    return options


def given_options(name: str, entry: Entry, values: Mapping[str, Any], open_base: OpenBase) -> dict[str, Any]:
    """Options as JSON has them, as the technique takes them: a model is given as its spec."""
    hints = typing.get_type_hints(entry.function)
    return {
        option: _value(f"{name}({option}={_spelt(value)})", _spelt(value), hints[option], open_base)
        for option, value in values.items()
    }


def _spelt(value: Any) -> str:
    """A JSON value as a spec spells it."""
    return f"[{', '.join(map(_spelt, value))}]" if isinstance(value, list) else str(value)


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


def _text(text: str) -> str:
    """Text as it stands, or as Python writes it in quotes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that escapes nothing, as in a regular expression
            return str(ast.literal_eval(text)) if text[:1] in ("'", '"') else text
    except (ValueError, SyntaxError):
        return text.strip("'\"")


_PLAIN: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: _boolean, str: _text}


def _plain(where: str, text: str, kind: Any) -> Any:
    try:
        return _PLAIN[kind](text)
    except (ValueError, KeyError):
        raise UsageError(f"{where}: {text!r} is not {_A[kind]}") from None


_A = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def describe_options(entry: Entry) -> str:
    """`n=4, judge=None`, as it stands in the technique's signature."""
    parameters = inspect.signature(entry.function).parameters.values()
    return ", ".join(f"{p.name}={p.default!r}" for p in parameters if p.kind is p.KEYWORD_ONLY)
