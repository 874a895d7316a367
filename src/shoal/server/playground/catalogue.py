"""What the page's forms are made of: models, techniques with their options, presets, prices."""

import inspect
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal.prompting.answers import KINDS
from shoal.runtime.model import Applied, Model, shown
from shoal.server.access.callers import Caller
from shoal.server.names import Names
from shoal.server.refusals import Refusal
from shoal.server.settings import Settings
from shoal.techniques import TECHNIQUES, Entry, slug_of
from shoal.techniques.bounds import bound

_SENTENCE_END = re.compile(r"(?<=[.:;])\s+(?=[A-Z`])")
_QUOTED = re.compile(r'"([a-z_]+)"')
_TITLES = {"monte_carlo_tree_search": "Monte Carlo tree search", "cot_reflection": "CoT reflection", "rstar": "rStar"}
_TYPES = {bool: "switch", int: "integer", float: "number", str: "text"}


def catalogue(names: Names, settings: Settings, caller: Caller) -> dict[str, Any]:
    """What this caller may use, and how to ask for it."""
    models = [name for name in names.own if name not in settings.presets and _may(caller, names, name)]
    first = models[0] if models else None
    techniques = [
        _technique(slug, entry)
        for slug, entry in TECHNIQUES.items()
        if first is not None and _may(caller, names, f"{slug}@{first}")
    ]
    presets = [
        {
            "name": name,
            **{key: value for key, value in msgspec.to_builtins(preset).items() if value not in (None, "", ())},
        }
        for name, preset in settings.presets.items()
        if _may(caller, names, name)
    ]
    return {
        "models": models,
        "techniques": techniques,
        "presets": presets,
        "prices": {
            name: msgspec.to_builtins(price) for name, price in settings.prices.items() if _may(caller, names, name)
        },
        "limits": {"calls": settings.max_calls, "tokens": settings.max_tokens, "seconds": settings.max_seconds},
    }


def _may(caller: Caller, names: Names, name: str) -> bool:
    try:
        return caller.covers(names.resolve(name))
    except Refusal:
        return False


def _technique(slug: str, entry: Entry) -> dict[str, Any]:
    doc = inspect.getdoc(entry.function) or ""
    hints = typing.get_type_hints(entry.function)
    options = [_option(name, hints[name], default, doc, entry.calls) for name, default in entry.options.items()]
    cost = entry.cost()
    return {
        "slug": slug,
        "title": _TITLES.get(slug) or slug.replace("_", " ").capitalize(),
        "summary": entry.summary,
        "paper": entry.paper,
        "options": [option for option in options if option is not None],
        "fewest": cost.fewest,
        "calls": cost.calls,
        "critical_path": cost.critical_path,
        "needs_sandbox": "SandboxUnavailable" in doc,
    }


def _option(name: str, hint: Any, default: Any, doc: str, calls: str) -> dict[str, Any] | None:
    """A field of the form; None for what only Python can give. Main are those that `calls` is counted by."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next((type_ for type_ in map(_type, kinds) if type_ is not None), None)
    if kind is None:
        return None
    about = _about(name, doc)
    choices: list[str] = []
    if kind == "text":
        choices = list(KINDS) if name == "kind" else list(dict.fromkeys(_QUOTED.findall(about)))
        if default is not None and default not in choices:
            choices = []  # what the text quotes are not the option's values
    return {
        "name": name,
        "main": kind == "integer" and re.search(rf"\b{name}\b", calls) is not None,
        "type": "choice" if choices else kind,
        "default": default,
        "optional": type(None) in kinds,
        "choices": choices,
        "about": about,
    }


def _type(kind: Any) -> str | None:
    if kind is Model:
        return "model"
    if typing.get_origin(kind) is Sequence and typing.get_args(kind) == (Model,):
        return "models"
    return _TYPES.get(kind)


def _about(name: str, doc: str) -> str:
    """The sentences of the docstring that speak of an option."""
    body = " ".join(doc.partition("\n")[2].split())
    sentences = _SENTENCE_END.split(body)
    return " ".join(sentence for sentence in map(_public, sentences) if f"`{name}`" in sentence)


def _public(sentence: str) -> str:
    """The sentence without where the code has more on it."""
    return re.sub(r"[;,] see `_\w+`", "", sentence)


def estimate(model: Model) -> dict[str, Any]:
    """What one answer takes, in calls, and the spec as the form would show it (None: it is more than a form holds)."""
    cost = bound(model)
    return {
        "fewest": cost.fewest,
        "calls": cost.calls,
        "critical_path": cost.critical_path,
        "form": _form(model),
    }


def _form(model: object) -> dict[str, Any] | None:
    stages = []
    while isinstance(model, Applied):
        slug = slug_of(model.technique)
        if slug is None:
            return None
        stages.append({"technique": slug, "options": {key: _written(value) for key, value in model.options.items()}})
        model = model.model
    return {"stages": stages, "base": repr(model)}


def _written(value: Any) -> Any:
    """An option as the form holds it: plain values as they are, models as specs."""
    return value if value is None or isinstance(value, bool | int | float | str) else shown(value)
