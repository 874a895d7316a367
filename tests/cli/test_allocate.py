"""`shoal run --allocate`: one budget over all rows, and one line for every way in which that cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.shell import Shell

SCRIPT = """
import random

def answer(request):
    share = {"easy": 1.0, "hard": 0.55}[request.text.split()[0]]
    chance = random.Random(f"{request.text} {request.sample}")
    return f"The answer is {1 if chance.random() < share else 2}."

def judge(request):
    return "5"
"""
ROWS = [{"question": f"{kind} {i}", "gold": "1"} for i in range(10) for kind in ("easy", "hard")]
BASE = ("data.jsonl", "-p", "{question}", "-m", "scripted/s.py:answer", "-t", "self_consistency(n=8)")


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    (at_home / "p.py").write_text("async def twice(question):\n    return question\n")
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def summary(shoal: Shell, *arguments: str) -> dict[str, Any]:
    code, out, err = shoal("run", *BASE, "--allocate", *arguments, "--json")
    assert (code, err) == (0, "")
    told: dict[str, Any] = json.loads(out)
    return told


def records(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_hard_rows_get_the_samples_of_easy_ones(shoal: Shell) -> None:
    told = summary(shoal, "--budget", "calls=160", "--answer", "gold")
    calls = {record["input"]["question"]: record["usage"]["calls"] for record in records(told["output"])}
    easy, hard = ([n for question, n in calls.items() if kind in question] for kind in ("easy", "hard"))
    assert max(easy) < sum(hard) / len(hard)
    assert told["calls"] == sum(calls.values()) == 160
    allocated = told["allocated"]
    assert allocated["samples"] == 160
    assert allocated["rows"] == 20
    assert (allocated["least"], allocated["most"]) == (min(calls.values()), max(calls.values()))
    assert allocated["moved"] == sum(max(0, n - 8) for n in calls.values())
    assert allocated["rounds"] > 3


def test_tokens_are_a_bound(shoal: Shell) -> None:
    told = summary(shoal, "--budget", "tokens=900", "--max-tokens", "8")
    assert 850 <= told["prompt_tokens"] + told["completion_tokens"] <= 900


def test_people_are_told_how_the_budget_went(shoal: Shell) -> None:
    code, _, err = shoal("run", *BASE, "--allocate", "--budget", "calls=160")
    assert code == 0
    assert "samples a row" in " ".join(err.split())
    assert "samples moved" in " ".join(err.split())


def test_another_budget_or_none_is_another_run(shoal: Shell) -> None:
    first = summary(shoal, "--budget", "calls=160", "--run-dir", "r")
    assert summary(shoal, "--budget", "calls=160", "--run-dir", "r") | {"seconds": 0} == first | {"seconds": 0}
    for other in (("--allocate", "--budget", "calls=200"), ("--budget", "calls=160")):
        code, _, err = shoal("run", *BASE, *other, "--run-dir", "r")
        assert code == 2
        assert "r holds a run with allocate=[160,null,20]" in err
    with Path("data.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    code, _, err = shoal("run", *BASE, "--allocate", "--budget", "calls=160", "--run-dir", "r")
    assert code == 2
    assert "now allocate=[160,null,21]" in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--allocate",), "--allocate shares out a budget; give --budget tokens=N or calls=N"),
        (("--allocate", "--budget", "seconds=9"), "give one of tokens or calls"),
        (("--allocate", "--budget", "calls=19"), "19 calls is not enough for one sample of each of 20 rows"),
        (("--allocate", "--budget", "calls=99", "-t", "best_of_n"), "is to be self_consistency"),
        (("--allocate", "--budget", "calls=99", "-t", "re_reading@self_consistency"), "is to be self_consistency"),
        (
            ("--allocate", "--budget", "calls=99", "--answer", "gold", "--scorer", "judge(model=scripted/s.py:judge)"),
            "the scorer may not ask a model",
        ),
    ],
)
def test_one_line_for_what_cannot_be(shoal: Shell, arguments: tuple[str, ...], line: str) -> None:
    for command in ("run", "plan"):
        code, _, err = shoal(command, *BASE, *arguments)
        assert code == 2
        assert line in err
        assert len(err.strip().splitlines()) == 1


def test_programs_and_pilots_are_refused(shoal: Shell) -> None:
    code, _, err = shoal("run", "data.jsonl", "--program", "p.py:twice", "--allocate", "--budget", "calls=99")
    assert code == 2
    assert "leave --program out" in err
    code, _, err = shoal("plan", *BASE, "--allocate", "--budget", "calls=99", "--pilot", "4")
    assert code == 2
    assert "leave --pilot out" in err


def test_a_budget_without_room_for_the_prompts_is_told_and_nothing_is_asked(shoal: Shell) -> None:
    code, out, err = shoal("run", *BASE, "--allocate", "--budget", "tokens=20", "--json")
    assert code == 1
    assert json.loads(out)["calls"] == 0
    assert "20 tokens is not enough for one sample of each of 20 rows" in err
    assert "with a larger --budget it is another run" in err


def test_the_plan_is_within_the_budget(shoal: Shell) -> None:
    def plan(budget: str) -> dict[str, Any]:
        code, out, err = shoal("plan", *BASE, "--allocate", "--budget", budget, "--max-tokens", "8", "--json")
        assert (code, err) == (0, "")
        told: dict[str, Any] = json.loads(out)
        return told

    calls = plan("calls=160")
    assert (calls["calls"]["least"], calls["calls"]["most"]) == (20, 160)
    assert calls["path"]["most"] == 32  # four times n
    assert "160 calls are shared out" in calls["notes"][-1]
    tokens = plan("tokens=900")
    assert max(tokens["prompt_tokens"]["most"], tokens["completion_tokens"]["most"]) <= 900
    assert plan("calls=100000")["calls"]["most"] == 20 * 32
    told = summary(shoal, "--budget", "calls=160")
    assert 20 <= told["calls"] <= 160
