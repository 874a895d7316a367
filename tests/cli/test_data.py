"""`shoal data`, and data sets as the DATA of `shoal run`."""

import json
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.evaluation.datasets import DATASETS


def shoal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    told = capsys.readouterr()
    return exit_.value.code, told.out, told.err


@pytest.fixture
def model(at_home: Path) -> str:
    (at_home / "model.py").write_text(
        "def all_good(request):\n    return 'It is positive.'\n\ndef echo(request):\n    return request.text\n"
    )
    return f"scripted/{at_home / 'model.py'}"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = shoal(capsys, "data")
    assert code == 0
    for dataset in DATASETS.values():
        line = next(line for line in out.splitlines() if line.startswith(f"data/{dataset.name} "))
        assert str(dataset.rows) in line.split()
        assert {dataset.target, dataset.scorer.partition("(")[0], dataset.licence} <= set(line.split())
        assert line.endswith(dataset.title)
    told = json.loads(shoal(capsys, "data", "--json")[1])
    assert [each["name"] for each in told] == list(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_show(capsys: pytest.CaptureFixture[str], name: str) -> None:
    dataset = DATASETS[name]
    code, out, err = shoal(capsys, "data", name)
    assert (code, err) == (0, "")
    assert out.startswith(f"One of its rows\n  id: {dataset.first()['id']}\n")
    assert dataset.source in out
    assert f"licence:  {dataset.licence}" in out
    assert f"run it:   shoal run data/{name}" in out
    assert str(dataset.first()[dataset.target]).splitlines()[-1] in out.partition("The right answer")[2]
    told = json.loads(shoal(capsys, "data", f"data/{name}", "--json")[1])
    assert told["example"] == dataset.first()
    assert told["suggested"]["target"] == dataset.target


def test_export(capsys: pytest.CaptureFixture[str], at_home: Path) -> None:
    code, _, err = shoal(capsys, "data", "kinds", "--export", "mine.jsonl")
    assert (code, err) == (0, "mine.jsonl: 175 rows\n")
    rows = [json.loads(line) for line in (at_home / "mine.jsonl").read_text("utf-8").splitlines()]
    assert rows[0] == DATASETS["kinds"].first()
    assert len(rows) == 175
    code, _, err = shoal(capsys, "data", "kinds", "--export", "mine.jsonl")
    assert (code, err) == (2, "shoal: mine.jsonl is there already; name another file with --export\n")


def test_split(capsys: pytest.CaptureFixture[str], at_home: Path) -> None:
    code, _, err = shoal(capsys, "data", "sentiment", "--split", "train=0.5,test=0.5", "--seed", "3")
    assert code == 0
    parts = [
        [json.loads(line)["id"] for line in (at_home / f"sentiment-{part}.jsonl").read_text("utf-8").splitlines()]
        for part in ("train", "test")
    ]
    assert err == f"sentiment-train.jsonl: {len(parts[0])} rows\nsentiment-test.jsonl: {len(parts[1])} rows\n"
    assert sorted(parts[0] + parts[1]) == sorted(f"sentiment-{number:03}" for number in range(1, 201))
    assert min(map(len, parts)) > 70
    code, _, err = shoal(capsys, "data", "sentiment-test.jsonl", "--split", "a=0.5", "--export", "half.jsonl")
    assert code == 0
    assert (at_home / "half-a.jsonl").exists()
    code, _, err = shoal(capsys, "data", "sentiment", "--split", "train=0.5,test=0.5")
    assert code == 2
    assert "sentiment-train.jsonl is there already" in err
    code, _, err = shoal(capsys, "data", "half-a.jsonl", "--split", "b=0.000001")
    assert code == 2
    assert "no row of half-a.jsonl falls in 'b'" in err


def test_a_file_of_the_users_is_shown(capsys: pytest.CaptureFixture[str], at_home: Path) -> None:
    (at_home / "rows.jsonl").write_text('{"a": 1}\n')
    _, out, _ = shoal(capsys, "data", "rows.jsonl")
    assert out == "One of its rows\n  a: 1\n\ncolumns:  a\nfile:     rows.jsonl\n"
    (at_home / "empty.jsonl").write_text("")
    assert shoal(capsys, "data", "empty.jsonl")[0] == 2


@pytest.mark.parametrize("arguments", [["--export", "x.jsonl"], ["puzzles", "--split", "a=1"]])
def test_nothing_to_export(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, err = shoal(capsys, "data", *arguments)
    assert (code, err) == (2, "shoal: --export and --split need the NAME of a data set\n")


def test_puzzles(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shoal(capsys, "data", "puzzles")
    assert code == 0
    assert "puzzle/chain_sum" in out.splitlines()
    assert "puzzle/countdown" not in out
    assert "reasoning-gym (Apache-2.0)" in err
    assert "chain_sum" in json.loads(shoal(capsys, "data", "puzzles", "--json")[1])
    _, out, _ = shoal(capsys, "data", "puzzle/chain_sum?size=2")
    assert "The right answer\n  -4\n" in out
    assert "run it:   shoal run 'puzzle/chain_sum?size=2'" in out


# As the DATA of a run


def test_suggestions_are_used_and_told(capsys: pytest.CaptureFixture[str], model: str) -> None:
    code, out, err = shoal(capsys, "run", "data/sentiment", "-m", f"{model}:all_good", "--json")
    assert code == 0
    summary = json.loads(out)
    assert (summary["rows"], summary["scored"], summary["right"]) == (200, 200, 100.0)
    told = r"--prompt 'Is this review positive or negative?\n{review}' --answer sentiment --scorer label"
    assert err == f"data/sentiment suggests: {told}\n"


def test_what_the_user_says_goes_first(capsys: pytest.CaptureFixture[str], model: str) -> None:
    own = ["-p", "{word}: {kind}", "--answer", "word", "--limit", "5"]
    code, out, err = shoal(capsys, "run", "data/kinds", "-m", f"{model}:echo", "--json", *own)
    assert (code, err) == (0, "")
    assert json.loads(out)["scored"] == 5
    code, out, err = shoal(
        capsys, "run", "data/kinds", "-m", f"{model}:echo", "--json", "-p", "a {kind}", "--run-dir", "2"
    )
    assert json.loads(out)["score"] == 1.0
    assert err == "data/kinds suggests: --answer kind --scorer label\n"


def test_a_file_of_that_path_comes_first(capsys: pytest.CaptureFixture[str], model: str, at_home: Path) -> None:
    (at_home / "data").mkdir()
    (at_home / "data" / "kinds").write_text("")
    code, _, err = shoal(capsys, "run", "data/kinds", "-m", f"{model}:echo")
    assert code == 2
    assert "data/kinds: unknown kind of data file" in err


def test_puzzles_are_run(capsys: pytest.CaptureFixture[str], model: str) -> None:
    own = ["-m", f"{model}:echo", "-p", "{answer}", "--json"]
    code, out, err = shoal(capsys, "run", "puzzle/chain_sum?size=5", *own)
    assert code == 0
    assert json.loads(out)["right"] == 5.0
    assert err == "puzzle/chain_sum?size=5 suggests: --answer answer --scorer puzzle\n"
    code, _, err = shoal(capsys, "run", "puzzle/countdown", *own)
    assert code == 2
    assert "puzzle/countdown is refused" in err


def test_unknown_set(capsys: pytest.CaptureFixture[str], model: str) -> None:
    code, _, err = shoal(capsys, "run", "data/sentimant", "-m", f"{model}:echo")
    assert code == 2
    assert err == "shoal: data/sentimant: no such file, and no data set 'sentimant'; did you mean sentiment?\n"
