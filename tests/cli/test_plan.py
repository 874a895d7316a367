"""`shoal plan` and `--plan`: what people read before they spend, and one line for every mistake."""

import json
from pathlib import Path

import pytest
from tests.cli.shell import Shell

SCRIPT = """
from pathlib import Path

def asked(request):
    with Path("asked.txt").open("a") as file:
        file.write(request.text + "\\n")
    return f"The answer is {len(request.text) % 7 + sum(request.sample)}."
"""
PROGRAM = """
from shoal import llm

async def twice(question):
    first = await llm.completion(question)
    return await llm.completion(f"{question} {first} Sure?")
"""
ROWS = [{"question": f"What is {i} plus {i}?", "gold": str(2 * i)} for i in range(12)]
MODEL = "scripted/s.py:asked"


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    (at_home / "p.py").write_text(PROGRAM)
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (at_home / "empty.jsonl").write_text("")
    (at_home / "shoal.toml").write_text(
        '[endpoints.lab]\nbase_url = "http://127.0.0.1:9/v1"\napi_key = "${NO_SUCH_KEY}"\n'
        '[prices."lab/m"]\ninput = 1.0\noutput = 10.0\n'
    )


class Planning(Shell):
    def plan(self, *arguments: str, command: str = "plan") -> dict[str, object]:
        code, out, err = self(command, *arguments, "--json", *(["--plan"] if command == "run" else []))
        assert (code, err) == (0, "")
        told: dict[str, object] = json.loads(out)
        return told


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str]) -> Planning:
    return Planning(capsys)


def ends(figure: object) -> tuple[float, float]:
    assert isinstance(figure, dict)
    return figure["least"], figure["most"]


PLAN = ("data.jsonl", "-p", "{question}", "-m", MODEL, "-t", "self_consistency(n=4)")


def test_nothing_is_asked_and_nothing_written(shoal: Planning, at_home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in at_home.rglob("*")}
    code, out, err = shoal("plan", *PLAN)
    assert (code, err) == (0, "")
    assert out.startswith("48 calls in 48 requests, 1 step, ")
    for line in ("rows", "calls", "critical path", "prompt tokens", "money"):
        assert f"\n{line} " in out
    assert {path: path.stat().st_mtime_ns for path in at_home.rglob("*") if "__pycache__" not in str(path)} == before


def test_run_with_plan_says_the_same_and_runs_nothing(shoal: Planning, at_home: Path) -> None:
    assert shoal.plan(*PLAN) == shoal.plan(*PLAN, command="run")
    assert not (at_home / "runs").exists()
    assert not (at_home / "asked.txt").exists()


def test_what_was_planned_is_what_the_run_does(shoal: Planning) -> None:
    told = shoal.plan(*PLAN)
    code, out, _ = shoal("run", *PLAN, "--json")
    assert code == 0
    done = json.loads(out)
    assert ends(told["calls"]) == (done["calls"], done["calls"])
    assert ends(told["prompt_tokens"]) == (done["prompt_tokens"], done["prompt_tokens"])
    again = shoal.plan(*PLAN)
    assert (again["done"], again["left"], ends(again["calls"])) == (12, 0, (0, 0))
    assert shoal("plan", *PLAN)[1].startswith("nothing is left to do")


def test_a_run_half_done_is_planned_from_where_it_is(shoal: Planning, at_home: Path) -> None:
    code, _, _ = shoal("run", *PLAN, "--run-dir", "r", "--budget", "calls=18", "--no-cache", "--quiet")
    assert code == 1
    told = shoal.plan(*PLAN, "--run-dir", "r")
    asked = len((at_home / "asked.txt").read_text().splitlines())
    assert isinstance(told["left"], int)
    assert told["rows"] == 12
    assert 0 < told["left"] < 12
    assert ends(told["calls"]) == (48 - asked, 48 - asked)
    assert shoal("run", *PLAN, "--run-dir", "r", "--no-cache", "--quiet")[0] == 0
    assert len((at_home / "asked.txt").read_text().splitlines()) == 48


def test_draws_of_another_run_come_from_the_cache(shoal: Planning) -> None:
    shoal("run", *PLAN[:-1], "self_consistency(n=3)", "--quiet")
    told = shoal.plan(*PLAN)
    assert (told["kept"], ends(told["calls"])) == (36, (12, 12))
    assert ends(shoal.plan(*PLAN, "--no-cache")["calls"]) == (48, 48)


def test_another_run_in_the_directory_is_told_as_the_run_would(shoal: Planning) -> None:
    shoal("run", *PLAN, "--run-dir", "r", "--quiet")
    code, _, err = shoal("plan", *PLAN, "--temperature", "0.5", "--run-dir", "r")
    assert code == 2
    assert "r holds a run with temperature=null, now temperature=0.5" in err


def test_a_server_that_is_not_there_and_has_no_key(shoal: Planning) -> None:
    code, out, err = shoal("plan", *PLAN[:3], "-m", "lab/m", "--max-tokens", "100")
    assert (code, err) == (0, "")
    assert "$1.00 in, $10.00 out a million ([prices])" in out
    assert "estimated at four characters" in out
    code, out, err = shoal("plan", *PLAN[:3], "-m", "lab/other")
    assert code == 0
    assert "price unknown" in out.splitlines()[0]
    assert 'lab/other: price unknown; name it in [prices."lab/other"]' in out
    assert shoal("plan", *PLAN[:3], "-m", "openai/gpt-4o-mini")[0] == 0
    code, _, err = shoal("run", *PLAN[:3], "-m", "openai/gpt-4o-mini")
    assert (code, "needs OPENAI_API_KEY" in err) == (2, True)


def test_a_row_for_each_model(shoal: Planning) -> None:
    _, out, _ = shoal("plan", *PLAN[:5], "-t", "best_of_n(n=2,judge=lab/m)")
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("lab/m", "scripted/"))] == [MODEL, "lab/m"]


def test_a_pilot_is_run_and_kept(shoal: Planning, at_home: Path) -> None:
    arguments = (*PLAN[:-1], "self_consistency(n=6,stop=settled)", "--pilot", "4")
    code, out, err = shoal("plan", *arguments)
    assert (code, err) == (0, "")
    assert "8 (4 in the pilot)" in out
    assert "predicted" in out
    asked = len((at_home / "asked.txt").read_text().splitlines())
    told = shoal.plan(*arguments)
    assert len((at_home / "asked.txt").read_text().splitlines()) == asked  # the pilot's rows are in the cache
    code, _, _ = shoal("run", *PLAN[:-1], "self_consistency(n=6,stop=settled)", "--quiet")
    assert code == 0
    least, most = ends(told["calls"])
    assert least <= len((at_home / "asked.txt").read_text().splitlines()) - asked <= most


def test_programs_and_templates_are_planned(shoal: Planning, at_home: Path) -> None:
    told = shoal.plan("data.jsonl", "--program", "p.py:twice", "-m", MODEL)
    assert (ends(told["calls"]), told["path"]) == ((24, 24), {"least": 1, "most": 2, "source": "dry run"})
    template = ("--template", "{question}", "--args", "args.jsonl", "--samples", "3", "-m", MODEL)
    (at_home / "args.jsonl").write_text('{"question": "a"}\n{"question": "b"}\n')
    assert ends(shoal.plan(*template)["calls"]) == (6, 6)
    assert not (at_home / "asked.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data.jsonl", "-p", "{qestion}", "-m", MODEL), "the template names column 'qestion'; data.jsonl has none"),
        (("empty.jsonl", "-m", MODEL), "empty.jsonl: no rows"),
        (("none.jsonl", "-m", MODEL), "none.jsonl"),
        (("-m", MODEL), "nothing to run"),
        ((*PLAN[:3], "-m", "lokal"), "unknown model 'lokal'"),
        ((*PLAN[:3], "-m", MODEL, "-t", "self_consistancy"), "unknown technique 'self_consistancy'"),
        ((*PLAN[:3], "-m", MODEL, "-t", "self_consistency(n=0)"), "n=0"),
        ((*PLAN, "--answer", "golf"), "--answer names column 'golf'"),
        ((*PLAN, "--replay"), "nothing to plan"),
        ((*PLAN, "--pilot", "2"), "--pilot"),
    ],
)
def test_mistakes_are_one_clear_line(shoal: Planning, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = shoal("plan", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_a_pilot_belongs_to_a_plan(shoal: Planning) -> None:
    code, _, err = shoal("run", *PLAN, "--pilot", "4")
    assert (code, "--pilot is for --plan" in err) == (2, True)


def test_a_judge_that_asks_a_model_is_planned_too(shoal: Planning, at_home: Path) -> None:
    rated = ("--answer", "gold", "--scorer", f"judge(model={MODEL})")
    (at_home / "two.py").write_text(SCRIPT)
    told = shoal.plan(*PLAN, "--answer", "gold", "--scorer", "judge(model=scripted/two.py:asked)")
    models = told["models"]
    assert isinstance(models, list)
    assert {model["model"]: ends(model["calls"]) for model in models} == {
        MODEL: (48, 48),
        "scripted/two.py:asked": (12, 12),
    }
    assert shoal.plan(*PLAN, *rated)["calls"] == {"least": 60, "most": 60, "source": "dry run"}
    assert not (at_home / "asked.txt").exists()
