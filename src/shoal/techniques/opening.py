"""`open_model`: from a spec to a Model, the one assembly line."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shoal.backends import BaseModel, open_base
from shoal.backends.config import Config, load_config
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache, default_cache_path
from shoal.runtime.model import Applied, Model
from shoal.runtime.retry import RetryPolicy
from shoal.techniques.spec import OpenBase, parse_spec


def open_model(
    spec: str,
    *,
    cache: DrawCache | Path | str | bool | None = True,
    config: Config | Path | None = None,
    max_in_flight: int | None = None,
    retry: RetryPolicy | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    queries_per_batch: int | None = None,
) -> BaseModel | Applied:
    """The Model that `spec` names: a base, or techniques on one.

    `open_model("local")`, `open_model("self_consistency(n=8)@openai/gpt-x")`. Opening loads and connects nothing; the
    first call does. `cache` is True for the user's own cache, a path for another, None or False for none. `base_url`,
    `api_key` and `queries_per_batch` (bare prompts in one request) stand in for an endpoint's configuration. Raises
    UsageError naming what is unknown and what is near.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    return from_bases(
        spec,
        opener(
            config,
            cache=open_cache(cache),
            max_in_flight=max_in_flight,
            retry=retry,
            base_url=base_url,
            api_key=api_key,
            queries_per_batch=queries_per_batch,
        ),
    )


def from_bases(spec: str, open_once: OpenBase) -> BaseModel | Applied:
    """The Model that `spec` names, on base models that `open_once` opens (see `opener`)."""
    model = parse_spec(spec, open_once)
    assert isinstance(model, BaseModel | Applied)
    return model


def opener(config: Config, **options: Any) -> OpenBase:
    """Opens base models, each once, so that several specs share them; options as `open_base` takes them."""
    found: dict[str, BaseModel] = {}

    def open_once(base: str) -> BaseModel:
        if base not in found:
            found[base] = open_base(base, config, **options)
        return found[base]

    return open_once


@asynccontextmanager
async def opened(model: Model | str) -> AsyncIterator[Model]:
    """The model for the body: itself, or what a spec names, closed again afterwards."""
    if not isinstance(model, str):
        yield model
        return
    mine = open_model(model)
    try:
        yield mine
    finally:
        for base in bases(mine):
            await base.aclose()


def open_cache(cache: DrawCache | Path | str | bool | None) -> DrawCache | None:
    """The cache that `open_model` takes so."""
    if isinstance(cache, DrawCache):
        return cache
    if cache is None or cache is False:
        return None
    return DrawCache(default_cache_path() if cache is True else Path(cache))


def refuse_unpriced(budget: Budget | None, models: object) -> None:
    """UsageError where a budget is in dollars and the price of one of the base models is not known."""
    if budget is not None and budget.dollars is not None:
        for base in bases(models):
            base.tariff()


def identities(model: object) -> list[str]:
    """What the answers of a model depend on: the identities of its base models."""
    return sorted(base.backend.identity for base in bases(model))


def names(model: object) -> tuple[str, str | None]:
    """The name of the base model, and the techniques applied to it as a spec writes them."""
    techniques = []
    while isinstance(model, Applied):
        techniques.append(model.name)
        model = model.model
    return repr(model), "@".join(techniques) or None


def bases(model: object) -> Iterator[BaseModel]:
    """The base models under a model, each once."""
    seen: set[int] = set()
    stack = [model]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, BaseModel):
            yield item
        elif isinstance(item, Applied):
            stack += [item.technique, item.model, *item.options.values()]
        elif isinstance(item, partial):
            stack += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, list | tuple):
            stack += item
