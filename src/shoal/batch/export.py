"""Records out: as a data file, and as examples to fine-tune on."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from shoal.batch.directory import atomic_writer, write_lines
from shoal.batch.records import encode
from shoal.batch.rows import Row
from shoal.errors import UsageError, did_you_mean

_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_NESTED = ("choice", "completion", "error", "usage")  # these have columns of their own in a table


def write_records(records: Iterable[Row | Struct], path: Path | str) -> int:
    """Write records of `complete`, `chat` or `map` to a data file; its ending says the format. Returns how many.

    JSON Lines and JSON hold them as they are. CSV, TSV and Parquet have a column a value: `choice.text`,
    `completion.usage.total_tokens`; prompts' arguments, conversations and other lists and dicts are JSON text there.
    The file appears whole or not at all. Raises UsageError for an unknown ending, StoreError where that fails.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise UsageError(f"{path}: unknown kind of data file {suffix!r}; {did_you_mean(suffix, _FORMATS)}")
    rows = [msgspec.to_builtins(record, enc_hook=str) for record in records]
    if suffix in (".jsonl", ".ndjson"):
        write_lines(path, map(encode, rows))
    elif suffix == ".json":
        write_lines(path, [encode(rows)])
    elif suffix == ".parquet":
        _write_parquet([_flat(row) for row in rows], path)
    else:
        _write_csv([_flat(row) for row in rows], path, "\t" if suffix == ".tsv" else ",")
    return len(rows)


def write_fine_tuning(records: Iterable[Row], path: Path | str) -> int:
    """Write records of `complete` or `chat` as chat examples to fine-tune on. Returns how many were written.

    One file, one example a line: `{"messages": [..., {"role": "assistant", "content": ...}]}`; a bare prompt is the
    user's turn. Records that failed are left out.
    """
    examples = [_example(record, i) for i, record in enumerate(records) if not _failed(record, i)]
    write_lines(Path(path), map(encode, examples))
    return len(examples)


def _failed(record: Any, number: int) -> bool:
    if not isinstance(record, Mapping) or "choice" not in record or not ("messages" in record or "prompt" in record):
        raise UsageError(f"records[{number}]: not a record of complete or chat")
    return record["choice"] is None


def _example(record: Row, number: int) -> Row:
    asked = record["messages"] if "messages" in record else [{"role": "user", "content": record["prompt"]}]
    said = record["choice"]
    reply: Row = {"role": "assistant", "content": said["text"]}
    if said.get("tool_calls"):
        reply["tool_calls"] = said["tool_calls"]
    return {"messages": [*asked, reply]}


def _flat(row: Row) -> Row:
    """The row with a column for each value of what always has the same shape, and text for other lists and dicts."""
    return dict(_columns(row, "", _NESTED))


def _columns(row: Row, prefix: str, nested: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name in nested and isinstance(value, dict):
            yield from _columns(value, f"{prefix}{name}.", _NESTED)
        elif name in nested:
            continue  # absent: its columns are empty
        else:
            yield prefix + name, encode(value).decode() if isinstance(value, dict | list) else value


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_csv(rows: list[Row], path: Path, delimiter: str) -> None:
    with atomic_writer(path) as out:
        text = io.TextIOWrapper(out, "utf-8", newline="")
        writer = csv.DictWriter(text, _names(rows), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()


def _write_parquet(rows: list[Row], path: Path) -> None:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow; pip install 'shoal[parquet]'") from None
    try:
        table = arrow.table({name: [row.get(name) for row in rows] for name in _names(rows)})
    except arrow.ArrowException as error:
        raise UsageError(f"{path}: a column holds values of several types ({error}); write JSON Lines") from None
    with atomic_writer(path) as out:
        parquet.write_table(table, out)
