"""Records as Arrow columns, of the same types whatever a batch holds, for engines whose tables are Arrow's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from shoal.batch.records import Record, encode
from shoal.batch.rows import Row
from shoal.batch.tables import plain

if TYPE_CHECKING:
    import pyarrow

_COUNTS = ("prompt_tokens", "completion_tokens", "calls", "cached_calls")


def fields(*, scored: bool) -> "list[pyarrow.Field]":
    """The columns of a result.

    row_id (32 hex digits of the columns that were read), output (text; anything else a program returned as JSON),
    answer, finish_reason, what the answer cost, score where rows are scored, and error: null, or its type and message.
    """
    import pyarrow as pa

    text = pa.string()
    named = [pa.field(name, text) for name in ("row_id", "output", "answer", "finish_reason")]
    named += [pa.field(name, pa.int64()) for name in _COUNTS]
    named += [pa.field("score", pa.float64())] if scored else []
    return [*named, pa.field("error", pa.struct([("type", text), ("message", text)]))]


def values(record: Record, *, scored: bool) -> dict[str, Any]:
    """A record as the values of these columns."""
    output = record.output if isinstance(record.output, str | None) else encode(record.output).decode()
    named = {"row_id": record.id, "output": output, "answer": record.answer, "finish_reason": record.finish_reason}
    named |= {name: getattr(record.usage, name) for name in _COUNTS}
    named |= {"score": None if record.score is UNSET else record.score} if scored else {}
    return named | {"error": msgspec.to_builtins(record.error)}


def columns(records: Sequence[Record], *, scored: bool) -> "list[tuple[pyarrow.Field, pyarrow.Array]]":
    """The columns of the results of many rows, in their order."""
    import pyarrow as pa

    table = [values(record, scored=scored) for record in records]
    return [(field, pa.array([row[field.name] for row in table], field.type)) for field in fields(scored=scored)]


def rows(table: "pyarrow.Table", names: Sequence[str] | None) -> list[Row]:
    """The rows of a table as plain values: the columns of these names that it has, or all."""
    wanted = table if names is None else table.select([name for name in names if name in table.column_names])
    if not wanted.num_columns:
        return [{} for _ in range(table.num_rows)]
    return [plain(row) for row in wanted.to_pylist()]
