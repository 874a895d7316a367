"""What one answer of a model costs at the most, techniques on techniques included, before anything is asked."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from shoal.backends import BaseModel
from shoal.errors import UsageError
from shoal.runtime.model import Applied, shown
from shoal.techniques import TECHNIQUES, Cost, Entry, slug_of
from shoal.techniques.combining import nested, pipeline, side_by_side

_ONE = Cost(1, 1, 1)
_NONE = Cost(0, 0, 0)


def bound(model: object, of: BaseModel | None = None) -> Cost:
    """Calls of base models that one answer of `model` takes: at the least, at the most, and one after another.

    With `of`, calls of that one base model alone. A technique's calls may go to its model or to one that an option
    names; the dearest is taken for the most, the cheapest for the least.
    """
    if not isinstance(model, Applied):
        return _ONE if of is None or model is of else _NONE
    return _of(model.technique, model.options, bound(model.model, of), of)


def _of(technique: object, options: Mapping[str, Any], inner: Cost, of: BaseModel | None) -> Cost:
    if isinstance(technique, partial):
        return _of(technique.func, {**technique.keywords, **options}, inner, of)
    if "stages" in options:
        return _combined(technique, options["stages"], inner, of)
    slug = slug_of(technique)
    if slug is None:
        return inner
    cost = _cost(TECHNIQUES[slug], options)
    asked = [inner, *(bound(item, of) for option in options.values() for item in _models(option))]
    fewest = min(cost.fewest for cost in asked)
    most, steps = max(cost.calls for cost in asked), max(cost.critical_path for cost in asked)
    return Cost(cost.fewest * fewest, cost.calls * most, cost.critical_path * steps)


def _cost(entry: Entry, options: Mapping[str, Any]) -> Cost:
    try:
        return entry.cost(**options)
    except Exception:  # noqa: BLE001 - a formula may fail in any way over options that the technique would refuse
        given = ", ".join(f"{name}={shown(option)}" for name, option in options.items())
        raise UsageError(f"{entry.function.__name__}({given}): it cannot work with these options") from None


def _combined(technique: object, stages: Any, inner: Cost, of: BaseModel | None) -> Cost:
    if technique is pipeline or technique is side_by_side:
        costs = [_of(stage, {}, inner, of) for stage in stages]
        steps, fewest = [cost.critical_path for cost in costs], [cost.fewest for cost in costs]
        most = sum(cost.calls for cost in costs)
        if technique is pipeline:
            return Cost(sum(fewest), most, sum(steps))
        return Cost(max(fewest), most, max(steps))  # draws in common are asked once
    for stage in reversed(stages):  # nested: each on the one after it
        inner = _of(stage, {}, inner, of)
    return inner


def _models(option: object) -> list[object]:
    items = option if isinstance(option, list | tuple) else [option]
    return [item for item in items if isinstance(item, Applied | BaseModel)]


def is_known(model: object) -> bool:
    """Whether `bound` holds: every technique is the catalogue's, on a base model."""
    if not isinstance(model, Applied):
        return isinstance(model, BaseModel)
    used = list(_used(model.technique, model.options))
    models = [item for _, options in used for option in options.values() for item in _models(option)]
    return all(entry is not None for entry, _ in used) and all(map(is_known, [model.model, *models]))


def is_fixed(model: object) -> bool:
    """Whether every answer takes the same calls, whatever is replied."""
    if not isinstance(model, Applied):
        return isinstance(model, BaseModel)
    used = list(_used(model.technique, model.options))
    return is_fixed(model.model) and all(entry is not None and _is_fixed(entry, options) for entry, options in used)


def _is_fixed(entry: Entry, options: Mapping[str, Any]) -> bool:
    cost = _cost(entry, options)
    models = [item for option in options.values() for item in _models(option)]
    return cost.fewest == cost.calls and all(map(is_fixed, models))


def _used(technique: object, options: Mapping[str, Any]) -> Iterator[tuple[Entry | None, Mapping[str, Any]]]:
    """The techniques that a technique is made of, with their options; None for one the catalogue does not have."""
    if isinstance(technique, partial):
        yield from _used(technique.func, {**technique.keywords, **options})
    elif technique in (pipeline, side_by_side, nested):
        for stage in options["stages"]:
            yield from _used(stage, {})
    else:
        slug = slug_of(technique)
        yield (TECHNIQUES[slug] if slug else None), options
