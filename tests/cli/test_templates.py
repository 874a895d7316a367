"""`shoal run --template`: templates over rows of arguments, with everything a run has."""

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.cli import main

SCRIPT = """
def said(request):
    return f"{request.text}#{request.sample}{'' if request.prompt is None else ' bare'}"
"""
MODEL = ("-m", "scripted/s.py:said")
RUN = ("run", "--template", "A {x}", "--template", "B {x}", "--args", "args.jsonl", *MODEL)


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    (at_home / "args.jsonl").write_text('{"x": 1}\n{"x": 2}\n')


def shoal(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def records(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_templates_are_crossed_with_rows_and_samples_in_this_order() -> None:
    assert shoal(*RUN, "--samples", "2", "-o", "out.jsonl") == 0
    found = records()
    assert [record["output"] for record in found] == [f"{t} {x}#({n},)" for t in "AB" for x in (1, 2) for n in (0, 1)]
    assert [record["id"] for record in found] == list(range(8))
    assert found[5]["input"] == {"template": "B {x}", "x": 1, "sample": 1}
    assert found[5].keys() == {
        *("id", "input", "output", "answer", "model", "technique", "finish_reason", "usage", "error")
    }


def test_a_run_of_templates_has_a_directory_and_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert shoal(*RUN, "--run-dir", "run", "--quiet") == 0
    assert {path.name for path in Path("run").iterdir()} >= {"config.json", "journal.sqlite", "output.jsonl", "lock"}
    before = Path("run/output.jsonl").read_bytes()
    Path("s.py").write_text(SCRIPT)  # the same script: nothing is asked again
    assert shoal(*RUN, "--run-dir", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["finished"] == 4
    assert Path("run/output.jsonl").read_bytes() == before
    assert shoal(*RUN, "--template", "C {x}", "--run-dir", "run", "--quiet") == 0  # templates added at the end are run
    assert len(records("run/output.jsonl")) == 6
    assert shoal(*RUN[:3], *RUN[5:], "--run-dir", "run", "--quiet") == 2


def test_texts_from_files_and_literal_braces() -> None:
    Path("t.txt").write_text('Reply as {"a": {x}}\n')
    args = ("run", "--template", "@t.txt", "--template", "@@{x}", *RUN[5:], "-o", "out.jsonl", "--limit", "1")
    assert shoal(*args) == 0
    assert [record["output"] for record in records()] == ['Reply as {"a": 1}#()', "@1#()"]
    assert shoal("run", "--template", "no {gap} {}", *MODEL, "-o", "out.jsonl") == 0
    assert [(r["input"], r["output"]) for r in records()] == [({"template": "no {gap} {}"}, "no {gap} {}#()")]


def test_bare_prompts() -> None:
    assert shoal(*RUN, "--bare", "--queries-per-batch", "3", "-o", "out.jsonl") == 0
    assert records()[0]["output"] == "A 1#() bare"
    assert shoal("run", "args.jsonl", "-p", "{x}", "--bare", *MODEL, "-o", "rows.jsonl") == 0
    assert records("rows.jsonl")[0]["output"] == "1#() bare"


def test_ids_and_answers_may_be_beside_the_arguments() -> None:
    Path("args.jsonl").write_text('{"id": "one", "x": 1, "gold": "A 1#()"}\n')
    assert shoal(*RUN, "--answer", "gold", "-o", "out.jsonl") == 0
    assert [(record["id"], "score" in record) for record in records()] == [("one", True), ("one", True)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--template", "{y}", "--args", "args.jsonl"], "args.jsonl[0] has no 'y', which '{y}' names; known: x"),
        (["--template", "{y}{x}", "--args", "two.jsonl"], "two.jsonl[1] has no 'y'"),
        (["--template", "hi", "--args", "args.jsonl"], "args.jsonl[0]: no template uses 'x'; none is known"),
        (["--template", "{template}", "--args", "taken.jsonl"], "taken.jsonl[0]: the name 'template' is taken"),
        (["--template", "@none.txt"], "--template @none.txt: cannot be read"),
        (["--args", "args.jsonl"], "--args needs --template"),
        (["args.jsonl", "--samples", "2"], "--samples needs --template"),
        (["args.jsonl", "--template", "{x}"], "the arguments come from --args: --args args.jsonl"),
        (["--template", "{x}", "-p", "{x}"], "give --template or --prompt, not both"),
        ([], "nothing to run: give DATA, or --template with --args"),
        (["args.jsonl", "--bare", "--system", "s"], "--bare sends a prompt and no --system"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.jsonl").write_text('{"x": 1, "y": 2}\n{"x": 1}\n')
    Path("taken.jsonl").write_text('{"template": 1}\n')
    assert shoal("run", *arguments, *MODEL) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()
