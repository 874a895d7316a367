"""Tables of shoal.toml as the values they stand for; what is wrong in one is named with its place."""

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from shoal.errors import UsageError, did_you_mean

S = TypeVar("S", bound=Struct)


def as_tables(data: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The tables [KEY.NAME] by their names."""
    tables = data.get(key, {})
    if not isinstance(tables, dict):
        raise UsageError(f"{where}: {key} must be tables, [{key}.NAME]")
    return tables


def table_as(kind: type[S], table: Any, where: str) -> S:
    """The table as a struct: UsageError for an unknown key, a missing one, or a value of another type."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: must be a table")
    known_keys(table, kind.__struct_fields__, where)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from None


def known_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")
