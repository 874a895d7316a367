"""The paper's lists, and lists of the user's."""

import json
from hashlib import md5
from importlib.resources import files
from pathlib import Path

import pytest

from shoal.errors import UsageError
from shoal.evolution.lists import mutation_prompts, read_list, thinking_styles


def test_the_papers_lists_are_whole_and_in_order() -> None:
    prompts, styles = mutation_prompts(), thinking_styles()
    assert (len(prompts), len(styles)) == (56, 39)
    assert prompts[0] == "Modify the following instruction creatively, giving some advice on how to solve it:"
    assert prompts[53] == "CORRECTION ="
    assert styles[0] == "How could I devise an experiment to help solve that problem?"
    assert styles[37] == "Let’s think step by step."
    assert len(set(prompts)) == 56
    assert len(set(styles)) == 39


@pytest.mark.parametrize(("name", "sum_"), [("mutation_prompts", "f9c29a41"), ("thinking_styles", "749b113c")])
def test_the_files_are_those_that_others_use(name: str, sum_: str) -> None:
    data = files("shoal.evolution").joinpath("data", f"{name}.json").read_bytes()
    assert md5(data, usedforsecurity=False).hexdigest().startswith(sum_)


def written(folder: Path, value: object) -> Path:
    path = folder / "list.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def test_a_file_is_a_list_or_numbered(tmp_path: Path) -> None:
    assert read_list(written(tmp_path, ["b", " a "])) == ("b", "a")
    assert read_list(written(tmp_path, {"10": "z", "2": "b", "1": "a"})) == ("a", "b", "z")
    assert mutation_prompts(written(tmp_path, ["b"])) == ("b",)
    assert thinking_styles(written(tmp_path, ["b"])) == ("b",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "a list of texts"),
        ({}, "a list of texts"),
        ("3", "a list of texts"),
        (["a", 3], "item 2: a text is needed, not 3"),
        (["a", " "], "item 2: a text is needed"),
        ({"1": "a", "two": "b"}, "the key 'two' is not a number"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, value: object, message: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(UsageError, match=message) as raised:
        read_list(path)
    assert str(path) in str(raised.value)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_list(tmp_path / "missing.json")
    (tmp_path / "latin").write_bytes(b'["\xff"]')
    with pytest.raises(UsageError, match="not UTF-8 text"):
        read_list(tmp_path / "latin")
