"""`shoal scorers`, and runs that are rated by them."""

import json
from pathlib import Path

import pytest
from tests.cli.shell import Shell
from tests.cli.test_cli import records

SCRIPT = """
def sure(request):
    return " Yes" if "odd" in request.text else "No."

def marks(request):
    if "Score" not in request.text:
        return "a poem"
    return "Hm." if "silent" in request.messages[0].text else "Score: 7"
"""
ROWS = [
    {"id": "a", "q": "Is 3 odd?", "gold": True},
    {"id": "b", "q": "Is 4 odd?", "gold": False},
    {"id": "c", "q": "Is 2 even?", "gold": True},
]
RUN = ("run", "data.jsonl", "-p", "{q}", "-m", "scripted/s.py:sure", "--answer", "gold")


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    (at_home / "mine.py").write_text("def half(output, row):\n    return 0.5\n")
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def test_scorers_are_listed_and_told_of(shoal: Shell) -> None:
    code, out, _ = shoal("scorers")
    assert code == 0
    for name in ("exact", "number", "maths", "judge", "FILE.py:NAME"):
        assert f"\n{name} " in f"\n{out}"
    code, out, _ = shoal("scorers", "judge")
    assert code == 0
    assert "model=(needed)" in out
    assert "scale=10" in out
    code, out, _ = shoal("scorers", "--json")
    assert json.loads(out)["regex"]["options"] == {"pattern": None, "flags": "", "seconds": 1.0}
    code, _, err = shoal("scorers", "numbr")
    assert (code, err) == (2, "shoal: unknown scorer 'numbr'; did you mean number?\n")


def test_the_metric_has_its_own_name_and_value(shoal: Shell) -> None:
    code, _, err = shoal(*RUN, "--scorer", 'f_beta(beta=0.5, yes=" Yes")', "-o", "out.jsonl")
    assert code == 0
    # said yes: a (true), b (false); true: a, c. Precision and recall are a half, and so is F-beta.
    assert "F0.5" in err
    assert "50.0% of 3" in err
    assert "accuracy" not in err
    assert [r["score"] for r in records(Path("out.jsonl"))] == [1.0, 0.0, 0.0]
    _, out, _ = shoal(*RUN, "--scorer", 'f_beta(beta=0.5, yes=" Yes")', "--json")
    told = json.loads(out)
    assert (told["metric"], told["value"], told["score"]) == ("F0.5", 0.5, 1 / 3)


def test_a_judge_shares_the_models_and_an_unreadable_mark_is_no_score(shoal: Shell) -> None:
    with Path("data.jsonl").open("a") as data:
        data.write(json.dumps({"id": "d", "q": "silent", "gold": None}) + "\n")
    arguments = ("run", "data.jsonl", "-p", "{q}", "-m", "scripted/s.py:marks", "--scorer")
    code, out, err = shoal(*arguments, "judge(model=scripted/s.py:marks, task=q)", "-o", "out.jsonl")
    assert (code, out) == (0, "")
    assert "mean score" in err
    assert "70.0% of 3" in err
    assert "0.70" in err
    assert "came to no score for 1 of 4 answers" in err
    written = records(Path("out.jsonl"))
    assert [r.get("score") for r in written] == [0.7, 0.7, 0.7, None]
    assert [r["usage"]["calls"] for r in written] == [1, 1, 1, 1]  # the judge's calls are not the answer's
    code, _, err = shoal(*arguments, "judge(model=scripted/s.py:sure, task=q)")
    assert code == 2
    assert "holds a run with scorer=" in err
    code, _, err = shoal(*arguments, "judge(model=scripted/s.py:marks, task=p)")
    assert code == 2
    assert "names column 'p'" in err


def test_the_judges_calls_are_in_the_budget_and_the_journal(shoal: Shell) -> None:
    judged = (*RUN, "--scorer", "judge(model=scripted/s.py:marks)")
    code, _, err = shoal(*judged, "--budget", "calls=3")
    assert code == 1
    assert "a larger --budget resumes" in err
    code, out, _ = shoal(*judged, "--json", "--budget", "calls=3")  # 6 calls in all, 3 of them kept
    assert (code, json.loads(out)["scored"]) == (0, 3)


def test_a_function_of_ones_own_and_its_source_make_the_run(shoal: Shell) -> None:
    code, _, err = shoal(*RUN[:-2], "--scorer", "mine.py:half")
    assert code == 0
    assert "mean score" in err
    assert "50.0% of 3" in err
    Path("mine.py").write_text("def half(output, row):\n    return 0.25\n")
    code, _, err = shoal(*RUN[:-2], "--scorer", "mine.py:half")
    assert code == 2
    assert "holds a run with scorer_source=" in err


def test_targets_are_checked_before_anything_is_spent(shoal: Shell) -> None:
    code, _, err = shoal(*RUN[:-1], "q", "--scorer", "boolean")
    assert code == 2
    assert err == "shoal: row 0, column 'q': 'Is 3 odd?' is neither yes nor no\n"
    assert not Path("runs").exists()


def test_without_a_sandbox_code_is_refused_before_anything_is_asked(
    shoal: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    Path("tests.jsonl").write_text(json.dumps({"q": "?", "gold": "assert add(1, 1) == 2"}) + "\n")
    code, _, err = shoal("run", "tests.jsonl", *RUN[2:], "--scorer", "code", "--run-dir", "r")
    assert code == 1
    assert "SandboxUnavailable" in err
    code, _, err = shoal("run", "tests.jsonl", *RUN[2:], "--run-dir", "s", "--replay")
    assert code == 1
    assert "NotCached" in err  # no draw of it was made
