"""Rows of every format, and one line that says where a file is wrong."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from shoal.batch.rows import Input, Shard, read_rows
from shoal.errors import UsageError

ROWS = [{"question": 'Why {"x": 1}?', "answer": "7"}, {"question": "Où, là?\nThere", "answer": "8"}]


def written(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    if name.endswith(("l", "ndjson")):
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS) + "\n", "utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(ROWS), "utf-8-sig")
    elif name.endswith(".csv"):
        path.write_text('question,answer\n"Why {""x"": 1}?",7\n"Où, là?\nThere",8\n', "utf-8-sig")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    assert list(read_rows(path)) == ROWS
    assert list(read_rows(path, 1)) == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: expected an object, found list"),
        ("a.jsonl", b'{"a": "\xff"}\n', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b"", "a.jsonl: no rows"),
        ("a.jsonl", b"\n\n", "a.jsonl: no rows"),
        ("a.json", b'{"a": 1}', "a.json: expected a list of objects, found dict"),
        ("a.json", b"[1]", "a.json, item 1: expected an object"),
        ("a.json", b"", "a.json: not JSON"),
        ("a.csv", b"a,b\n1\n", "a.csv, line 2: not 2 cells"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv, line 2: not 2 cells"),
        ("a.csv", b'a\n"open\n', "a.csv, line 1: unexpected end of data"),
        ("a.csv", b"a\n\xff\n", "a.csv: not UTF-8 text"),
        ("a.csv", b"", "a.csv: no rows"),
        ("a.parquet", b"PAR1", "a.parquet: not a Parquet file"),
        ("a.xlsx", b"", "unknown kind of data file '.xlsx'"),
        ("a.jsn", b"", "did you mean .json"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        Input(tmp_path / name)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Input(tmp_path / "no.jsonl")
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        Input(tmp_path / "d.jsonl")


def test_fingerprint_is_of_the_rows_not_of_the_file(tmp_path: Path) -> None:
    assert Input(written(tmp_path, "a.jsonl")).digest == Input(written(tmp_path, "a.csv")).digest
    longer = tmp_path / "b.jsonl"
    longer.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"question": "x", "answer": "y"}]))
    assert Input(longer).prefix(2) == Input(written(tmp_path, "a.jsonl")).digest
    assert Input(longer, 2).digest == Input(written(tmp_path, "a.jsonl")).digest
    assert Input(longer).digest != Input(longer, 2).digest


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_shard_has_every_nth_row_and_their_numbers(tmp_path: Path, name: str, index: int) -> None:
    rows = Input(written(tmp_path, name))
    rows.shard = Shard(index, 3)
    assert list(rows.numbered()) == [(number, row) for number, row in enumerate(ROWS) if number == index]


def lines(word: str, rows: int) -> str:
    return "".join(json.dumps({"q": f"{word} {i}" + "." * 200}) + "\n" for i in range(rows))


@pytest.mark.parametrize("after", [lines("new", 900), lines("old", 300), "no JSON\n" * 900, ""])
def test_rows_are_told_until_the_file_is_another(tmp_path: Path, after: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines("old", 900))
    rows = Input(path)
    reading = rows.numbered()
    told = [next(reading) for _ in range(100)]
    path.write_text(after)
    told += list(reading)
    assert rows.changed
    assert len(told) == 100
    assert all(row["q"].startswith(f"old {number}.") for number, row in told)


def test_rows_added_and_a_file_that_is_gone_disturb_no_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines("old", 900))
    for change in (lambda: path.write_text(lines("old", 1000)), path.touch, path.unlink):
        rows = Input(path)
        reading = rows.numbered()
        before = rows.count
        told = [next(reading)]
        change()
        told += list(reading)
        assert ([number for number, _ in told], rows.changed) == (list(range(before)), False)
