"""`[engines.NAME]` in shoal.toml: a model that an engine runs on this machine, and how it is loaded.

[engines.big]
engine = "vllm"                     # or "transformers"
model = "Qwen/Qwen3-8B"             # a directory, or a hub id that has been downloaded
options = { tensor_parallel_size = 2, max_model_len = 16384 }   # the engine's own
lora = { sql = "adapters/sql" }     # vllm/big is the model, vllm/big:sql the model with this adapter
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from shoal.backends.tables import table_as
from shoal.errors import UsageError, did_you_mean

ENGINES = ("vllm", "transformers")
_NAME = re.compile(r"\w[\w.+-]*")


class EngineTable(Struct, frozen=True):
    """What a table says. Paths are as they are written; `options` are checked by the engine's own backend."""

    engine: Literal["vllm", "transformers"]
    model: str
    options: dict[str, Any] = {}
    lora: dict[str, str] = {}


class Loading(Struct, frozen=True):
    """What an engine loads: a directory or hub id, its options, an adapter where there is one, the spec's own name.

    `adapters` are all that the table names, for an engine that keeps several beside one model.
    """

    model: str
    options: dict[str, Any]
    lora: Path | None
    name: str
    adapters: dict[str, Path] = {}


def engine_tables(tables: dict[str, Any], file: str) -> dict[str, EngineTable]:
    """The tables of all engines. UsageError names what is wrong with one."""
    return {name: _table(name, table, f"{file} [engines.{name}]") for name, table in tables.items()}


def _table(name: str, table: Any, where: str) -> EngineTable:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: an engine's name is of letters, digits and . + - _")
    read = table_as(EngineTable, table, where)
    for adapter in read.lora:
        if not _NAME.fullmatch(adapter):
            raise UsageError(f"{where} lora: the name {adapter!r} is not of letters, digits and . + - _")
    return read


def loading(engine: str, name: str, tables: Mapping[str, EngineTable], file: str) -> Loading:
    """What the spec `engine/name` loads: what a table of that name says, else the model `name` as it is.

    Only a table gives options and adapters, so that a spec alone never makes an engine run a model's own code.
    """
    spec = f"{engine}/{name}"
    table_name, colon, adapter = name.partition(":")
    table = tables.get(table_name)
    if table is None:
        return Loading(name, {}, None, spec)
    where = f"{file} [engines.{table_name}]"
    if table.engine != engine:
        raise UsageError(f"model {spec!r}: {where} says engine = {table.engine!r}; write {table.engine}/{name}")
    if colon and adapter not in table.lora:
        raise UsageError(f"model {spec!r}: {where} has no adapter {adapter!r}; {did_you_mean(adapter, table.lora)}")
    beside = Path(file).parent  # paths in a file are relative to the file
    adapters = {each: beside / Path(path).expanduser() for each, path in table.lora.items()}
    model = beside / Path(table.model).expanduser()
    model_name = str(model) if model.is_dir() else table.model
    return Loading(model_name, table.options, adapters[adapter] if colon else None, spec, adapters)
