"""The data sets that ship with shoal, the splitting of rows, and generated puzzles."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.scripting import run

from shoal.batch.rows import read_rows
from shoal.errors import UsageError
from shoal.evaluation import datasets
from shoal.evaluation.datasets import DATASETS, Dataset, puzzles
from shoal.evaluation.datasets.generation import generate
from shoal.evaluation.datasets.splitting import parse_shares, split
from shoal.evaluation.scorers import open_scorer
from shoal.prompting.template import Template
from shoal.runtime.types import Completion

FOLDER = Path(datasets.__file__).parent
EVERY = pytest.mark.parametrize("dataset", DATASETS.values(), ids=list(DATASETS))


def score(name: str, text: str, target: object, row: dict[str, Any]) -> float:
    value = run(open_scorer(name).score(Completion(text), target, row))[1]
    assert isinstance(value, float)
    return value


# What ships


@EVERY
def test_rows_are_as_the_table_says(dataset: Dataset) -> None:
    rows = list(read_rows(dataset.path))
    assert len(rows) == dataset.rows
    assert {tuple(row) for row in rows} == {dataset.columns}
    assert len({row["id"] for row in rows}) == len(rows)
    without_id = [json.dumps({key: row[key] for key in row if key != "id"}, sort_keys=True) for row in rows]
    assert len(set(without_id)) == len(rows)
    questions = [Template(dataset.template).fill(row) for row in rows]
    assert len(set(questions)) == len(rows)
    assert all(row[dataset.target] for row in rows)
    assert dataset.first() == rows[0]


@EVERY
def test_licence_is_there(dataset: Dataset) -> None:
    texts = (FOLDER / "LICENSES.md").read_text("utf-8")
    assert dataset.name in texts
    assert dataset.licence in ("MIT", "Apache-2.0", "CC0-1.0")
    assert {"MIT": "Permission is hereby granted", "Apache-2.0": "Apache License", "CC0-1.0": "CC0"}[
        dataset.licence
    ] in texts
    assert dataset.source
    assert dataset.changed


def test_no_file_beside_the_table_and_not_too_much() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(DATASETS)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.jsonl")) < 600_000


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "humaneval"])
def test_gold_answers_are_right(name: str) -> None:
    dataset = DATASETS[name]
    rows = list(read_rows(dataset.path))
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        target = row[dataset.target]
        assert score(dataset.scorer, str(target), target, row) == 1.0
        assert score(dataset.scorer, f"The answer is {_short(target)}.", target, row) == 1.0
        wrong = _short(other[dataset.target])
        assert score(dataset.scorer, f"The answer is {wrong}.", target, row) == float(wrong == _short(target))


def _short(target: str) -> str:
    """What a worked solution ends in."""
    return target.split("#### ")[-1]


@EVERY
def test_the_suggested_scorer_takes_every_row(dataset: Dataset) -> None:
    rows = list(read_rows(dataset.path))
    scorer = open_scorer(dataset.scorer)
    assert set(scorer.columns) <= set(dataset.columns)
    scorer.check_rows(rows, dataset.target)


def test_classes_are_balanced() -> None:
    assert set(Counter(row["sentiment"] for row in read_rows(DATASETS["sentiment"].path)).values()) == {100}
    assert set(Counter(row["kind"] for row in read_rows(DATASETS["kinds"].path)).values()) == {35}


def test_a_set_is_named() -> None:
    assert datasets.named("data/gsm8k") is DATASETS["gsm8k"]
    assert datasets.named("gsm8k.jsonl") is None
    with pytest.raises(UsageError, match="data/gsm8: no such file, and no data set 'gsm8'; did you mean gsm8k"):
        datasets.named("data/gsm8")


# Labels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The review is positive.", 1.0),
        ("POSITIVE", 1.0),
        ("It is negative.", 0.0),
        ("It is neither good nor bad.", 0.0),
        ("Positive or negative? Hard to say, it is both.", 0.0),
        ("Words like cold sound negative, but she liked it. The answer is positive.", 1.0),
        ("Words like hot sound positive, but she did not like it. The answer is negative.", 0.0),
        ("non-positively", 0.0),
    ],
)
def test_label(text: str, expected: float) -> None:
    row = {"review": "Good.", "sentiment": "positive", "options": ["positive", "negative"]}
    assert score("label", text, "positive", row) == expected


@pytest.mark.parametrize("options", [None, "positive, negative", [], ["negative"]])
def test_label_needs_options(options: object) -> None:
    with pytest.raises(UsageError, match="needs in the column 'options' a list of labels, the target among them"):
        score("label", "positive", "positive", {"options": options})


# Splitting


def test_a_split_keeps_rows_where_they_are() -> None:
    rows = [{"id": number, "text": f"row {number}"} for number in range(2000)]
    shares = parse_shares("train=0.5, dev=0.2,test=0.3")
    before = {row["id"]: part for part, row in split(rows, shares, 7)}
    assert len(before) == 2000
    counts = Counter(before.values())
    assert all(
        abs(counts[part] - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5 for part, share in shares.items()
    )
    more = [*reversed(rows), *({"id": number, "text": "more"} for number in range(2000, 2500))]
    after = {row["id"]: part for part, row in split(more, shares, 7)}
    assert after.items() >= before.items()
    assert {row["id"]: part for part, row in split(rows, shares, 8)} != before


def test_shares_below_one_leave_rows_out() -> None:
    rows = [{"id": number} for number in range(1000)]
    kept = [row["id"] for _, row in split(rows, parse_shares("small=0.1"))]
    assert 60 < len(kept) < 140
    larger = {row["id"] for _, row in split(rows, parse_shares("large=0.2"))}
    assert larger >= set(kept)


@pytest.mark.parametrize(
    "text", ["", "train", "train=x", "train=0.5,train=0.5", "train=-1", "a=0.6,b=0.6", "a/b=1", "a=nan"]
)
def test_bad_shares(text: str) -> None:
    with pytest.raises(UsageError, match="--split"):
        parse_shares(text)


# Puzzles


@pytest.mark.parametrize("name", ["chain_sum", "word_ladder", "rotate_matrix", "sudoku", "spell_backward"])
def test_a_puzzle_is_solved_by_its_answer(name: str) -> None:
    rows = list(read_rows(puzzles.generated(puzzles.parse(f"puzzle/{name}?size=3&seed=5"))))
    assert [row["id"] for row in rows] == [f"{name}-5-{number}" for number in range(3)]
    for row in rows:
        assert score("puzzle", row["answer"], row["answer"], row) == 1.0
        assert score("puzzle", "no idea", row["answer"], row) < 0.2
        assert score("puzzle", "9" * 20_000, row["answer"], row) < 0.1
        assert score("puzzle", "[" * 9_000, row["answer"], row) < 0.1


def test_a_short_answer_counts() -> None:
    row = next(read_rows(puzzles.generated(puzzles.parse("puzzle/chain_sum?size=1"))))
    assert score("puzzle", f"We add and get it.\nThe answer is {row['answer']}.", row["answer"], row) == 1.0


HOSTILE = ["1e999999999", "9" * 9999, "0." + "1" * 9000, "1e99999/1e-99999", "[" * 9999, ", " * 4999, "\ud83d\0", "nan"]


def test_every_allowed_verifier_takes_its_own_answers_and_no_hostile_ones() -> None:
    """In one process, on what a file would hold: lists for tuples, text for dates."""
    names = puzzles.names()
    assert len(names) == 53
    for name in names:
        puzzle = puzzles.parse(f"puzzle/{name}?size=2&seed=11")
        generate(msgspec.json.encode(puzzle))
        for row in read_rows(puzzle.path):
            assert puzzles.verify(row, row["answer"]) == 1.0, name
            assert max(puzzles.verify(row, text) for text in HOSTILE) < 0.5, name


@pytest.mark.parametrize("name", ["n_queens", "countdown", "polynomial_multiplication", "codeio", "bitwise_arithmetic"])
def test_verifiers_that_run_the_answer_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"puzzle/{name} is refused"):
        puzzles.parse(f"puzzle/{name}")
    mark = tmp_path / "mark"
    row = {"puzzle": name, "config": {}, "question": "", "answer": "", "metadata": {"valid_answers": []}}
    with pytest.raises(UsageError, match="refused"):
        puzzles.verify(row, f"open({str(mark)!r}, 'w')")
    assert not mark.exists()


def test_no_allowed_verifier_evaluates() -> None:
    """Nothing that runs text is called while answers of code are verified."""
    row = next(read_rows(puzzles.generated(puzzles.parse("puzzle/word_sorting?size=1"))))
    program = (
        "import sys\n"
        "from shoal.batch.rows import read_rows\n"
        "from shoal.evaluation.datasets import puzzles\n"
        "from shoal.evaluation.datasets.generation import generate\n"
        "import msgspec\n"
        "rows = []\n"
        "for name in puzzles.names():\n"
        "    puzzle = puzzles.parse(f'puzzle/{name}?size=2&seed=3')\n"
        "    generate(msgspec.json.encode(puzzle))\n"
        "    rows += read_rows(puzzle.path)\n"
        "for row in rows: puzzles.verify(row, row['answer'])\n"
        "told = []\n"
        "sys.addaudithook(lambda event, _: told.append(event) if event in ('exec', 'compile', 'import') else None)\n"
        "for row in rows:\n"
        "    for text in ('__import__(\"os\").getpid()', '[1, 2]', '2+2', '(1)', 'print(1)', '{}'):\n"
        "        puzzles.verify(row, text)\n"
        "print(len(rows), sorted(set(told)))\n"
    )
    assert row["puzzle"] == "word_sorting"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "106 []\n"


@pytest.mark.parametrize("name", ["ransom_note", "list_functions"])  # by the order of a set, by the shared generator
def test_rows_are_the_same_in_every_process(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / seed / "draws.sqlite"))
        written.append(puzzles.generated(puzzles.parse(f"puzzle/{name}?size=30&seed=5")).read_bytes())
        assert os.environ["PYTHONHASHSEED"] == seed
    assert written[0] == written[1]


def test_options_of_a_generator() -> None:
    puzzle = puzzles.parse("puzzle/chain_sum?size=4&seed=2&min_terms=2&max_terms=2&allow_negation=true")
    assert puzzle.config == {"min_terms": 2, "max_terms": 2, "allow_negation": True}
    rows = list(read_rows(puzzles.generated(puzzle)))
    assert [row["metadata"]["num_terms"] for row in rows] == [2] * 4
    assert puzzle.path != puzzles.parse("puzzle/chain_sum?size=4&seed=2").path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("puzzle/chain_summ", "no puzzle 'chain_summ'; did you mean chain_sum"),
        ("puzzle/chain_sum?size=0", "size is 1 to 100000"),
        ("puzzle/chain_sum?size=x", "expected puzzle/NAME"),
        ("puzzle/chain_sum?size", "expected puzzle/NAME"),
        ("puzzle/chain_sum?max_term=2", "no option 'max_term'; did you mean max_terms"),
        ("puzzle/chain_sum?max_terms=two", "max_terms|int"),
    ],
)
def test_what_is_wrong_with_a_puzzle(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        puzzles.parse(text)


def test_a_generator_refuses_its_options() -> None:
    with pytest.raises(UsageError, match=r"puzzle/chain_sum: the generator refuses the options: "):
        puzzles.generated(puzzles.parse("puzzle/chain_sum?min_terms=5&max_terms=2"))


def test_rows_that_are_no_puzzles() -> None:
    with pytest.raises(UsageError, match="the scorer puzzle needs rows of a puzzle"):
        score("puzzle", "4", "4", {"question": "2+2", "answer": "4"})
