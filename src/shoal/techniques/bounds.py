"""What one answer of a model costs at the most, techniques on techniques included, before anything is asked."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from shoal.errors import UsageError
from shoal.runtime.model import Applied, shown
from shoal.techniques import TECHNIQUES, Cost, Entry, slug_of
from shoal.techniques.combining import pipeline, side_by_side

_ONE = Cost(1, 1, 1)


def bound(model: object) -> Cost:
    """Calls of base models that one answer of `model` takes: at the least, at the most, and one after another.

    A technique's calls may go to its model or to one that an option names; the dearest is taken for each.
    """
    if not isinstance(model, Applied):
        return _ONE
    return _of(model.technique, model.options, bound(model.model))


def _of(technique: object, options: Mapping[str, Any], inner: Cost) -> Cost:
    if isinstance(technique, partial):
        return _of(technique.func, {**technique.keywords, **options}, inner)
    if "stages" in options:
        return _combined(technique, [_of(stage, {}, inner) for stage in options["stages"]], options, inner)
    slug = slug_of(technique)
    if slug is None:
        return inner
    cost = _cost(TECHNIQUES[slug], options)
    asked = [inner, *(bound(item) for option in options.values() for item in _models(option))]
    most, steps = max(cost.calls for cost in asked), max(cost.critical_path for cost in asked)
    return Cost(cost.fewest * inner.fewest, cost.calls * most, cost.critical_path * steps)


def _cost(entry: Entry, options: Mapping[str, Any]) -> Cost:
    try:
        return entry.cost(**options)
    except Exception:  # noqa: BLE001 - a formula may fail in any way over options that the technique would refuse
        given = ", ".join(f"{name}={shown(option)}" for name, option in options.items())
        raise UsageError(f"{entry.function.__name__}({given}): it cannot work with these options") from None


def _combined(technique: object, costs: list[Cost], options: Mapping[str, Any], inner: Cost) -> Cost:
    if technique is pipeline or technique is side_by_side:
        steps = [cost.critical_path for cost in costs]
        path = sum(steps) if technique is pipeline else max(steps)
        return Cost(sum(cost.fewest for cost in costs), sum(cost.calls for cost in costs), path)
    for stage in reversed(options["stages"]):  # nested: each on the one after it
        inner = _of(stage, {}, inner)
    return inner


def _models(option: object) -> list[object]:
    return [item for item in (option if isinstance(option, list | tuple) else [option]) if isinstance(item, Applied)]
