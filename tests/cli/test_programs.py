"""`shoal run --program` and `--replay`, as a user types them."""

import json
from pathlib import Path

import pytest

from shoal.cli import main

FLOWS = """
import shoal
from shoal import llm

@shoal.program
async def mayor(country, note=""):
    city = await llm.generate_text(f"city of {country}")
    return {"city": city, "mayor": await llm.generate_text(f"mayor of {city}{note}")}

def answer(request):
    return f"{request.text}|{request.params.temperature}"
"""


@pytest.fixture(autouse=True)
def workplace(at_home: Path) -> None:
    (at_home / "flows.py").write_text(FLOWS)
    (at_home / "data.jsonl").write_text('{"country": "France", "x": 1}\n{"country": "Spain", "x": 2}\n')
    (at_home / "ask.jinja").write_text("{{ country }}: {{ generate_text(name='a') }}")


def shoal(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "-m", "scripted/flows.py:answer"])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def run(*arguments: str) -> int:
    return shoal("run", "data.jsonl", "--quiet", *arguments)


def output(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_columns_are_arguments_and_the_output_is_what_the_program_returned() -> None:
    assert run("--program", "flows.py:mayor", "-o", "out.jsonl", "--temperature", "0.5") == 0
    first, second = output("out.jsonl")
    assert first["output"] == {"city": "city of France|0.5", "mayor": "mayor of city of France|0.5|0.5"}
    assert first["technique"] == "flows.py:mayor"
    assert second["input"] == {"country": "Spain", "x": 2}


def test_a_template_in_a_file_is_a_program() -> None:
    assert run("--program", "ask.jinja", "-t", "self_consistency(n=2)", "-o", "out.jsonl") == 0
    (first, _) = output("out.jsonl")
    assert first["output"] == {"text": "France: France: |None", "outputs": {"a": "France: |None"}}
    assert first["technique"] == "ask.jinja@self_consistency(n=2)"
    assert first["usage"]["calls"] == 2  # type: ignore[index]


def test_a_run_goes_on_and_a_changed_program_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--program", "flows.py:mayor") == 0
    assert run("--program", "flows.py:mayor") == 0
    Path("flows.py").write_text(FLOWS.replace('"city":', '"town":'))
    assert run("--program", "flows.py:mayor") == 2
    assert "holds a run with" in capsys.readouterr().err


def test_replay_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--program", "flows.py:mayor", "--limit", "1", "--run-dir", "a") == 0
    assert run("--program", "flows.py:mayor", "--limit", "1", "--run-dir", "b", "--replay") == 0
    assert run("--program", "flows.py:mayor", "--run-dir", "c", "--replay") == 1
    error = capsys.readouterr().err
    assert "NotCached: not in the cache of scripted/flows.py:answer: 'city of Spain'" in error
    assert run("--program", "flows.py:mayor", "--replay", "--no-cache") == 2
    assert shoal("ask", "never asked", "--replay") == 1
    assert "never asked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--program", "flows.py:major"], "flows.py has no major; did you mean mayor?"),
        (["--program", "nope.py:mayor"], "no file nope.py"),
        (["--program", "mayor"], "expected FILE.py:NAME"),
        (["--program", "nope.jinja"], "No such file"),
        (["--program", "flows.py:mayor", "-p", "{x}"], "leave --prompt out"),
        (["--program", "flows.py:mayor", "--system", "x"], "leave --system out"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_arguments_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-p", "{country}", "--system", "a\udcff") == 2
    assert capsys.readouterr().err == "shoal: an argument is not UTF-8: 'a?'\n"


def test_a_column_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.jsonl").write_text('{"land": "France"}\n')
    assert run("--program", "flows.py:mayor") == 2
    assert "takes 'country'; data.jsonl has none" in capsys.readouterr().err
