"""Tables of shoal.toml as the values they stand for; what is wrong in one is named with its place."""

from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from shoal.errors import UsageError, did_you_mean

T = TypeVar("T", bound=Struct)


def tables_as(kind: type[T], tables: dict[str, Any], where: str) -> dict[str, T]:
    """Each of the tables as a `kind`; `where` is the beginning of their names, `FILE [section`."""
    return {name: table_as(kind, table, f"{where}.{name}]") for name, table in tables.items()}


def table_as(kind: type[T], table: Any, where: str) -> T:
    """A table as a `kind`, a Struct; UsageError says where and what is wrong with it."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: must be a table")
    known_keys(table, kind.__struct_fields__, where)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}{_choices(kind, table)}") from None


def _choices(kind: type[Struct], table: dict[str, Any]) -> str:
    """The end of the message where a key holds none of the words it may."""
    for key, hint in get_type_hints(kind).items():
        words = next((get_args(one) for one in (hint, *get_args(hint)) if get_origin(one) is Literal), None)
        if words and isinstance(table.get(key), str) and table[key] not in words:
            return f"; known: {', '.join(words)}"
    return ""


def known_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")
