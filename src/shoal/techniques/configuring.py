"""Giving options to techniques that are already put together, as a request does that names its model elsewhere."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from shoal.errors import UsageError, did_you_mean
from shoal.runtime.model import Applied, Model, Technique
from shoal.techniques import TECHNIQUES, Entry, slug_of
from shoal.techniques.spec import OpenBase, given_options


def stages(model: object) -> Iterator[tuple[str, Entry]]:
    """The techniques that stand before a base model, from the outside in, each with its slug."""
    if isinstance(model, Applied):
        yield from _named(model.technique)
        for option in model.options.values():
            yield from stages(option)
        yield from stages(model.model)
    elif isinstance(model, list | tuple):
        for item in model:
            yield from stages(item)
    elif isinstance(model, partial):
        yield from _named(model.func)
        for option in model.keywords.values():
            yield from stages(option)
    elif callable(model):
        yield from _named(model)


def _named(technique: object) -> Iterator[tuple[str, Entry]]:
    if (slug := slug_of(technique)) is not None:
        yield slug, TECHNIQUES[slug]


def configured(model: Model, given: Mapping[str, Any], open_base: OpenBase) -> Model:
    """The same techniques on the same base, with the options in `given`.

    An option is named `option`, for all techniques that have it, or `technique_option`, by slug or alias, for one.
    Values are JSON's; a model is given as its spec. UsageError for an option that none of them has.
    """
    used: set[str] = set()
    done: Model = _with(model, given, open_base, used)
    for name in given:
        if name not in used:
            known = {option for _, entry in stages(model) for option in entry.options}
            raise UsageError(f"no technique of the request has an option {name!r}; {did_you_mean(name, known)}")
    return done


def _with(model: Any, given: Mapping[str, Any], open_base: OpenBase, used: set[str]) -> Any:
    if isinstance(model, Applied):
        below = _with(model.model, given, open_base, used)
        return Applied(model.technique, below, _options(model.technique, model.options, given, open_base, used))
    if isinstance(model, partial):
        return partial(model.func, **_options(model.func, model.keywords, given, open_base, used))
    if isinstance(model, list | tuple):
        return [_with(stage, given, open_base, used) for stage in model]
    if slug_of(model) is not None:
        options = _options(model, {}, given, open_base, used)
        return partial(model, **options) if options else model
    return model


def _options(
    technique: Technique, before: Mapping[str, Any], given: Mapping[str, Any], open_base: OpenBase, used: set[str]
) -> dict[str, Any]:
    options = dict(before)
    for slug, entry in _named(technique):
        mine = {option: name for name in given if (option := _option_of(slug, entry, name)) is not None}
        used.update(mine.values())
        options |= given_options(slug, entry, {option: given[name] for option, name in mine.items()}, open_base)
    if "stages" in options and slug_of(technique) is None:
        options["stages"] = _with(options["stages"], given, open_base, used)
    return options


def _option_of(slug: str, entry: Entry, name: str) -> str | None:
    """The option of a technique that a name means."""
    if name in entry.options:
        return name
    for prefix in (slug, *entry.aliases):
        option = name.removeprefix(f"{prefix}_")
        if option != name and option in entry.options:
            return option
    return None
