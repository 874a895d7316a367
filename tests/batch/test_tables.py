"""Rows from every kind of table, as plain values, and none of the libraries imported by reading them."""

import datetime
import enum
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow
import pytest
from tests.scripting import scripted

import shoal
from shoal.batch.tables import items_of, plain, rows_of
from shoal.errors import UsageError

ROWS = [{"q": "Why?", "i": 1, "f": 0.5}, {"q": "Où?", "i": 2, "f": None}]


class Dataset:
    """What a Hugging Face dataset shows of itself: columns as `to_dict`, rows by iteration."""

    column_names = ("q", "i", "f")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(ROWS)

    def to_dict(self) -> dict[str, list[Any]]:
        return {name: [row[name] for row in ROWS] for name in self.column_names}


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        (row for row in ROWS),
        pandas.DataFrame(ROWS),
        pandas.DataFrame(ROWS).convert_dtypes(),
        polars.DataFrame(ROWS),
        polars.DataFrame(ROWS).lazy(),
        pyarrow.Table.from_pylist(ROWS),
        pyarrow.RecordBatch.from_pylist(ROWS),
        Dataset(),
    ],
    ids=["list", "generator", "pandas", "pandas-na", "polars", "polars-lazy", "arrow", "arrow-batch", "datasets"],
)
def test_every_table_gives_the_same_plain_rows(data: Any) -> None:
    rows = list(rows_of(data))
    assert rows == ROWS
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, type(None)}


def test_files_and_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(rows_of(path)) == list(rows_of(str(path))) == ROWS
    assert list(rows_of({"q": 1})) == [{"q": 1}]


@pytest.mark.parametrize(
    "column",
    [pandas.Series(["a", "b"]), polars.Series(["a", "b"]), pyarrow.chunked_array([["a"], ["b"]])],
    ids=["pandas", "polars", "arrow"],
)
def test_a_column_is_a_list_of_texts(column: Any) -> None:
    model, _ = scripted(lambda request: request.text)
    assert shoal.complete(column, model=model).texts == ["a", "b"]
    assert [record.output for record in shoal.map(model, column)] == ["a", "b"]


@pytest.mark.parametrize("library", [pandas.Series, polars.Series, pyarrow.array])
def test_a_column_of_conversations(library: Any) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    model, _ = scripted(lambda request: f"{len(request.messages)} {request.text}")
    assert shoal.chat(library([turns, turns[1:]]), model=model).texts == ["2 u", "1 u"]


def test_values_of_libraries_become_plain() -> None:
    class Word(enum.StrEnum):
        YES = "yes"

    numpy = pandas.Series([1, 2]).to_numpy()
    value = {
        "array": numpy,
        "number": numpy[0],
        "when": pandas.Timestamp("2026-01-02"),
        "never": pandas.NaT,
        "na": pandas.NA,
        "nan": float("nan"),
        "word": Word.YES,
        "mapping": OrderedDict(a=(1, {2})),
        "day": datetime.date(2026, 1, 2),
        "arrow": pyarrow.scalar("x"),
        "number as a name": {1: True},
    }
    found = plain(value)
    assert found == {
        "array": [1, 2],
        "number": 1,
        "when": "2026-01-02T00:00:00",
        "never": None,
        "na": None,
        "nan": None,
        "word": "yes",
        "mapping": {"a": [1, [2]]},
        "day": "2026-01-02",
        "arrow": "x",
        "number as a name": {"1": True},
    }
    assert type(found["word"]) is str
    assert type(found["number"]) is int


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"q": 1}, 2], r"rows\[1\]: expected a dict, found int"),
        (3, r"rows: expected a list, a table or a file of rows, found int"),
        (
            {"train": Dataset(), "test": Dataset()},
            r"rows: a dataset of several splits; choose one: \['train' \| 'test'\]",
        ),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), r"two columns named 'a'"),
    ],
)
def test_what_is_no_table_is_said(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(rows_of(data))


def test_missing_values_leave_their_gap_empty() -> None:
    model, _ = scripted(lambda request: request.text)
    assert shoal.complete("[{q}{f}]", pandas.DataFrame(ROWS).drop(columns="i"), model=model).texts == [
        "[Why?0.5]",
        "[Où?]",
    ]


def test_map_takes_tables_and_files(tmp_path: Path) -> None:
    model, _ = scripted(lambda request: request.text)
    path = tmp_path / "rows.csv"
    pandas.DataFrame(ROWS).to_csv(path, index=False)
    for items in (pandas.DataFrame(ROWS), polars.DataFrame(ROWS), pyarrow.Table.from_pylist(ROWS), path):
        records = shoal.map(model, items, template="{q} {i}")
        assert [record.output for record in records] == ["Why? 1", "Où? 2"]
    assert shoal.map(model, pandas.DataFrame(ROWS), template="{q}")[0].input == ROWS[0]
    with pytest.raises(UsageError, match="items: expected a list of texts or rows, found one text"):
        shoal.map(model, "Why?")


def test_items_of_lists_stay_lists() -> None:
    assert list(items_of([["a"], "b"])) == [["a"], "b"]


def test_reading_rows_imports_no_library_of_tables() -> None:
    code = (
        "import sys, shoal\n"
        "from shoal.batch.tables import rows_of\n"
        "list(rows_of([{'a': 1}]))\n"
        "assert not {'pandas', 'polars', 'pyarrow', 'datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
