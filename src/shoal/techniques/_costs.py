"""Formulas of what techniques cost, over their options: short expressions of the catalogue's own."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined

_expressions = Environment(undefined=StrictUndefined)


def evaluate(formula: str, options: Mapping[str, Any]) -> int:
    """The formula's value: `max`, `min`, `len` and `model` are known in it beside the options."""
    known = {"max": max, "min": min, "len": len, "model": "the model"}
    value: Any = _compiled(formula)(**known, **options)
    return int(value)


@cache  # a server asks before each request, and compiling takes ten times as long as all else a vote needs
def _compiled(formula: str) -> Callable[..., Any]:
    return _expressions.compile_expression(formula, undefined_to_none=False)
