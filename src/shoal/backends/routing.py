"""`[models.NAME]` in shoal.toml: several endpoints behind one name.

[models.small]
endpoints = ["lab1/qwen", "lab2/qwen"]

[models.mixed]
affinity = false            # true: conversations go where their beginning was asked before
[[models.mixed.endpoints]]
model = "lab/qwen"
weight = 3
[[models.mixed.endpoints]]
model = "openai/gpt-x"
rpm = 500
fallback = true             # asked only when no other can answer
"""

import math
import re
from typing import Any

from msgspec import Struct

from shoal.backends.tables import table_as
from shoal.errors import UsageError

PROVIDERS = (
    "local",
    "gguf",
    "vllm",
    "transformers",
    "openai",
    "scripted",
)  # what stands before the slash without being configured
_NAME = re.compile(r"\w[\w.:+-]*")


class Route(Struct, frozen=True):
    """One member: a base spec, its share of the load, and limits that stand in for its endpoint's."""

    model: str
    weight: float = 1.0
    fallback: bool = False
    rpm: float | None = None
    tpm: float | None = None
    max_in_flight: int | None = None


class Routing(Struct, frozen=True):
    """A router's members, and whether requests go where their beginning was asked before."""

    endpoints: tuple[Route, ...]
    affinity: bool = True


class _Table(Struct):
    endpoints: list[Any]
    affinity: bool = True


def routing(name: str, table: Any, where: str) -> Routing:
    """The router that a table describes. UsageError names what is wrong with it."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: a model's name here is of letters, digits and . : + - _")
    if name in PROVIDERS:
        raise UsageError(f"{where}: {name} means something else; choose another name")
    read = table_as(_Table, table, where)
    routes = tuple(_route(entry, f"{where} endpoints[{i}]") for i, entry in enumerate(read.endpoints))
    if not routes:
        raise UsageError(f"{where}: endpoints is empty; name at least one model")
    specs = [route.model for route in routes]
    twice = next((spec for spec in specs if specs.count(spec) > 1), None)
    if twice is not None:
        raise UsageError(f"{where}: {twice} is there twice; give it a weight instead")
    return Routing(routes, read.affinity)


def _route(entry: Any, where: str) -> Route:
    if isinstance(entry, str):
        return Route(entry)
    route = table_as(Route, entry, where)
    for key in ("weight", "rpm", "tpm", "max_in_flight"):
        value = getattr(route, key)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{where}: {key} must be above 0, not {value}")
    return route
