"""Rows from whatever holds them: lists, data files, pandas, polars, Arrow and Hugging Face data. Imports none of these.

Values become plain ones (`plain`): what a table calls missing is None, dates are text, NumPy's numbers Python's.
"""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from shoal.batch.rows import Row, read_rows
from shoal.errors import UsageError

_MISSING = frozenset({"NAType", "NaTType"})  # pandas' words for a value that is not there
_PLAIN = (str, int, bool, type(None))


def rows_of(data: Any, what: str = "rows") -> Iterator[Row]:
    """The rows of `data`, one dict each, in order.

    `data` is a dict (one row), an iterable of dicts, the path of a data file, or a table: a pandas or polars frame, an
    Arrow table, a Hugging Face dataset. Raises UsageError naming `what` and the row that is none.
    """
    for number, row in enumerate(_each(data, what)):
        if not isinstance(row, Mapping):
            raise UsageError(f"{what}[{number}]: expected a dict, found {type(row).__name__}")
        yield {str(name): plain(value) for name, value in row.items()}


def items_of(data: Any, what: str = "items") -> Iterator[Any]:
    """The items of a list, a column (a pandas or polars series, an Arrow array) or a table: texts, dicts or lists."""
    for item in _each(data, what):
        yield tuple(map(plain, item)) if type(item) is tuple else plain(item)  # a tuple gives a program its arguments


def _each(data: Any, what: str) -> Iterable[Any]:
    if isinstance(data, Mapping):
        _not_splits(data, what)
        return [data]
    if isinstance(data, str | PathLike):
        return read_rows(Path(data))
    if hasattr(data, "collect") and hasattr(data, "sink_parquet"):  # a polars LazyFrame
        data = data.collect()
    if hasattr(data, "iter_rows"):  # polars
        return data.iter_rows(named=True)  # type: ignore[no-any-return]
    if hasattr(data, "to_batches"):  # an Arrow table
        return (row for batch in data.to_batches() for row in batch.to_pylist())
    if hasattr(data, "to_pylist"):  # an Arrow batch or column
        return data.to_pylist()  # type: ignore[no-any-return]
    if hasattr(data, "iloc") and hasattr(data, "columns"):  # pandas
        return _pandas(data)
    if not isinstance(data, Iterable):
        raise UsageError(f"{what}: expected a list, a table or a file of rows, found {type(data).__name__}")
    return data


def _not_splits(data: Mapping[Any, Any], what: str) -> None:
    splits = [str(name) for name, value in data.items() if hasattr(value, "column_names")]
    if splits:
        raise UsageError(f"{what}: a dataset of several splits; choose one: [{' | '.join(map(repr, splits))}]")


def _pandas(frame: Any) -> Iterator[Row]:
    names = [str(name) for name in frame.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"the table has two columns named {twice!r}; rename one")
    for values in frame.itertuples(index=False, name=None):
        yield dict(zip(names, values, strict=True))


def plain(value: Any) -> Any:
    """The value as JSON can say it, of builtin types only, so that it can be read without the library it came from."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if value == value else None  # NaN stands for a missing value in tables
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, such as NumPy's: the bare text
    return plain(_builtin(value))


def _builtin(value: Any) -> Any:
    if type(value).__name__ in _MISSING:
        return None
    # NumPy's arrays and numbers; polars' lists; dates, also of pandas; Arrow's values
    for method in ("tolist", "to_list", "isoformat", "as_py"):
        if hasattr(value, method):
            return getattr(value, method)()
    return msgspec.to_builtins(value, enc_hook=str)
