"""Records as files: read back by other programs as they were, and as examples to fine-tune on."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas
import polars
import pytest
from tests.scripting import scripted

import shoal
from shoal.batch.rows import read_rows
from shoal.errors import BadRequest, StoreError, UsageError
from shoal.runtime.types import Completion, Json, Request


def batch() -> shoal.Batch:
    def script(request: Request) -> str:
        if request.text == "Q b":
            raise BadRequest("no")
        return f'said "{request.text}",\nand more'

    model, _ = scripted(script)
    return shoal.complete("Q {x}", [{"x": "a"}, {"x": "b"}, {"x": "c"}], model=model)


@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.json"])
def test_json_holds_the_records_as_they_are(tmp_path: Path, name: str) -> None:
    records = batch().records
    assert shoal.write_records(records, tmp_path / name) == 3
    assert list(read_rows(tmp_path / name)) == records


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.parquet"])
def test_tables_have_a_column_a_value(tmp_path: Path, name: str) -> None:
    assert shoal.write_records(batch(), str(tmp_path / name)) == 3
    first, failed, _ = read_rows(tmp_path / name)
    assert first["choice.text"] == 'said "Q a",\nand more'
    assert json.loads(first["prompt_args"]) == {"x": "a"}
    assert int(first["completion.usage.total_tokens"]) == 7
    assert (failed["choice.text"] or None, failed["error.type"]) == (None, "BadRequest")
    assert {"choice", "completion", "error"}.isdisjoint(first)


def test_other_libraries_read_them(tmp_path: Path) -> None:
    records = batch().records
    shoal.write_records(records, tmp_path / "r.parquet")
    assert pandas.read_parquet(tmp_path / "r.parquet")["prompt"].tolist() == ["Q a", "Q b", "Q c"]
    assert polars.read_parquet(tmp_path / "r.parquet").height == 3
    assert pandas.DataFrame(records)["prompt"].tolist() == ["Q a", "Q b", "Q c"]
    assert polars.DataFrame(records).height == 3


def test_records_of_map(tmp_path: Path) -> None:
    model, _ = scripted(lambda request: request.text)
    assert shoal.write_records(shoal.map(model, ["a", "b"]), tmp_path / "r.csv") == 2
    with (tmp_path / "r.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["output"], row["usage.calls"]) for row in rows] == [("a", "1"), ("b", "1")]


def test_no_records_are_a_file_too(tmp_path: Path) -> None:
    for name in ("r.jsonl", "r.json", "r.csv", "r.parquet"):
        assert shoal.write_records([], tmp_path / name) == 0
        assert (tmp_path / name).exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown kind of data file '.jsn'; did you mean .json\?"):
        shoal.write_records([], tmp_path / "r.jsn")
    with pytest.raises(UsageError, match=r"several types .* write JSON Lines"):
        shoal.write_records([{"a": 1}, {"a": "x"}], tmp_path / "r.parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        shoal.write_records([], tmp_path / "file" / "r.jsonl")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_fine_tuning_is_one_file_of_one_example_a_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    assert shoal.write_fine_tuning(batch(), path) == 2
    assert lines(path) == [
        {
            "messages": [
                {"role": "user", "content": f"Q {x}"},
                {"role": "assistant", "content": f'said "Q {x}",\nand more'},
            ]
        }
        for x in "ac"
    ]
    assert [p.name for p in tmp_path.iterdir() if "train" in p.name] == ["train.jsonl"]


def test_fine_tuning_keeps_the_conversation_and_its_order(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    model, _ = scripted(lambda request: Completion(request.text * 500, tool_calls=(Json.of(call),)))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{x} "}]
    many = shoal.chat(turns, [{"x": i} for i in range(200)], model=model)
    assert shoal.write_fine_tuning(many.records, tmp_path / "t.jsonl") == 200
    found = lines(tmp_path / "t.jsonl")
    assert [example["messages"][2]["content"][:4].split()[0] for example in found] == [str(i) for i in range(200)]
    assert found[7]["messages"][:2] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "7 "}]
    assert found[7]["messages"][2]["tool_calls"] == [call]


def test_fine_tuning_wants_records_of_prompts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"records\[0\]: not a record of complete or chat"):
        shoal.write_fine_tuning([{"output": "x"}], tmp_path / "t.jsonl")
