"""What is compared: techniques on models, read from what the user wrote, on one pool of draws."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, takewhile
from typing import Any

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.config import Config
from shoal.errors import UsageError
from shoal.evaluation.comparing.sizes import SIZES, size_of
from shoal.runtime.cache import DrawCache
from shoal.runtime.model import Applied, Model, Technique, shown
from shoal.techniques.opening import bases, names, opener
from shoal.techniques.spec import OpenBase, join_spec, parse_spec

_RANGE = re.compile(r"(\w+)\s*=\s*(\d+)\s*\.\.\s*(\d+)")
PLAIN = "plain"
_BASE = "…"  # no name that a spec can have


class Candidate(Struct, frozen=True):
    """One arm before it is run. Where it has a curve, that begins at size `first`."""

    name: str
    spec: str
    model: Model
    first: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of its curve below its own, each twice the one before."""
        size = size_of(self.model)
        if self.first is None or size is None:
            return ()
        doubled = (self.first << step for step in count())
        return tuple(takewhile(lambda n: n < size.value, doubled))

    @property
    def base(self) -> str:
        """The name of the model under the techniques."""
        return names(self.model)[0]


class Wanted(Struct, frozen=True):
    """What the user asked to compare: every technique on every model. `plain`: each model by itself, too."""

    techniques: Sequence[str | Technique]
    models: Sequence[str | Model]
    plain: bool = True
    curve: bool = False


class _Written(Struct, frozen=True):
    """A technique as it was given: a spec without its range, and where that begins."""

    technique: str | Technique | None
    option: str | None = None
    first: int = 1

    @property
    def name(self) -> str:
        return PLAIN if self.technique is None else _named(self.technique)


def candidates(wanted: Wanted, cache: DrawCache | None, config: Config) -> list[Candidate]:
    """The arms, opened on `cache`, or without one. UsageError for what cannot be compared, before anything is asked."""
    techniques = [_read(technique) for technique in wanted.techniques]
    if wanted.plain:
        techniques.insert(0, _Written(None))
    if not techniques or not wanted.models:
        raise UsageError(f"nothing to compare: give at least one {'technique' if wanted.models else 'model'}")
    pairs = [(technique, model) for model in wanted.models for technique in techniques]
    opened = _opened(pairs, cache, config)
    several = len(wanted.models) > 1
    found: dict[str, Candidate] = {}
    for (written, base), model in zip(pairs, opened, strict=True):
        name = f"{written.name}@{_named(base)}" if several else written.name
        if name in found:
            raise UsageError(f"{name} is given twice")
        spec = join_spec("" if written.technique is None else written.name, _named(base))
        found[name] = Candidate(name, spec, model, _first(written, model, curve=wanted.curve))
    return list(found.values())


def _read(technique: str | Technique) -> _Written:
    """A technique, `n=1..64` in it read as n=64 with a curve from 1 on."""
    if not isinstance(technique, str):
        return _Written(technique)
    ranges = list(_RANGE.finditer(technique))
    if not ranges:
        return _Written(technique)
    option, first, last = ranges[0].groups()
    if len(ranges) > 1 or not 1 <= int(first) <= int(last):
        raise UsageError(f"{technique}: expected one range, upwards from at least 1, as in n=1..64")
    return _Written(_RANGE.sub(f"{option}={last}", technique), option, int(first))


def _named(thing: str | Technique | Model) -> str:
    return thing if isinstance(thing, str) else repr(thing) if isinstance(thing, BaseModel | Applied) else shown(thing)


_Pair = tuple[_Written, str | Model]


def _opened(pairs: Sequence[_Pair], cache: DrawCache | None, config: Config) -> list[Model]:
    """Every technique on its model; a base that several have is one, so that their draws are shared."""
    open_base = opener(config, cache=cache)
    seen: dict[int, BaseModel] = {}

    def pooled(base: BaseModel) -> BaseModel:
        return seen.setdefault(id(base), base.with_cache(cache))

    opened: list[Model] = []
    for written, model in pairs:
        on: Model = parse_spec(model, open_base) if isinstance(model, str) else _on_pool(model, pooled)
        if not list(bases(on)):
            raise UsageError(f"{_named(model)}: expected the spec of a model, or one that open_model gave")
        if isinstance(written.technique, str):
            on = parse_spec(f"{written.technique}@{_BASE}", partial(_under, on, open_base))
        elif written.technique is not None:
            on = _applied(written.technique, on)
        opened.append(on)
    return opened


def _under(model: Model, open_base: OpenBase, name: str) -> Model:
    """A technique's model, or one that its options name."""
    return model if name == _BASE else open_base(name)


def _applied(technique: Technique, model: Model) -> Applied:
    if isinstance(technique, partial):
        return Applied(technique.func, model, technique.keywords)
    return Applied(technique, model, {})


def _on_pool(model: Any, pooled: Callable[[BaseModel], BaseModel]) -> Any:
    """An opened model with every base model under it on the pool."""
    if isinstance(model, BaseModel):
        return pooled(model)
    if isinstance(model, Applied):
        options = {name: _on_pool(option, pooled) for name, option in model.options.items()}
        return Applied(_on_pool(model.technique, pooled), _on_pool(model.model, pooled), options)
    if isinstance(model, partial):
        options = {name: _on_pool(option, pooled) for name, option in model.keywords.items()}
        return partial(model.func, *model.args, **options)
    return [_on_pool(each, pooled) for each in model] if isinstance(model, list | tuple) else model


def _first(written: _Written, model: Model, *, curve: bool) -> int | None:
    """Where the arm's curve begins, if it is to have one."""
    size = size_of(model)
    if written.option is not None and (size is None or size.option != written.option):
        known = f"here {size.option}" if size else f"one of {', '.join(sorted(set(SIZES.values())))}"
        raise UsageError(f"{written.name}: a range is for the option that says how much a technique spends, {known}")
    return written.first if size is not None and (curve or written.option) else None
