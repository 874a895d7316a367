"""`shoal compare --plan`: what it says is what the comparison then asks, and it asks and writes nothing itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.batch.echo_server import echo_server
from tests.cli.shell import Shell

SCRIPT = """
import os

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
judged = os.open("judged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def guess(request):
    os.write(asked, f"{request.text!r} {request.sample}\\n".encode())
    return f"The answer is {len(request.text) + (len(request.text) + sum(request.sample)) % 3}."

def judge(request):
    os.write(judged, b"once\\n")
    return "Score: 7"
"""
COMPARE = ("compare", "data.jsonl", "-p", "{q}", "--answer", "gold", "--scorer", "number", "-m", "scripted/s.py:guess")


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    rows = [{"q": f"question {'x' * (i % 4)} {i:02}", "gold": 12 + i % 4} for i in range(24)]
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(name: str) -> int:
    return len(Path(name).read_text().splitlines()) if Path(name).exists() else 0


def plan(shoal: Shell, *arguments: str) -> Any:
    code, out, err = shoal(*arguments, "--plan", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def ends(figure: Any) -> tuple[float, float]:
    return figure["least"], figure["most"]


ARMS = ("-t", "self_consistency(n=1..8)", "-t", "self_consistency(n=3)", "-t", "re_reading", "-t", "critique(rounds=1)")


def test_the_comparison_makes_the_calls_planned(shoal: Shell) -> None:
    told = plan(shoal, *COMPARE, *ARMS)
    assert [(arm["name"], ends(arm["plan"]["calls"])) for arm in told["arms"]] == [
        ("plain", (24, 24)),
        ("self_consistency(n=8)", (192, 192)),
        ("self_consistency(n=3)", (72, 72)),
        ("re_reading", (24, 24)),
        ("critique(rounds=1)", (72, 72)),
    ]
    total = told["total"]
    assert not Path("runs").exists()
    assert lines("asked") == 0
    code, out, _ = shoal(*COMPARE, *ARMS, "--json")
    assert code == 0
    assert ends(total["calls"]) == ends(total["wire_requests"]) == (lines("asked"), lines("asked"))
    assert total["calls"]["source"] == "exact"
    assert lines("asked") <= 24 + 192 + 24 + 72  # the smaller of two pools is in the larger
    done = json.loads(out)
    for arm, alone in zip(done["arms"], told["arms"], strict=True):
        assert ends(alone["plan"]["calls"]) == (arm["calls"], arm["calls"])
        if arm["name"] != "critique(rounds=1)":  # its prompts hold replies
            assert ends(alone["plan"]["prompt_tokens"]) == (arm["prompt_tokens"], arm["prompt_tokens"])
    again = plan(shoal, *COMPARE, *ARMS)["total"]
    assert (again["kept"], ends(again["calls"])) == (lines("asked"), (0, 0))
    more = plan(shoal, *COMPARE, "-t", "self_consistency(n=11)")
    assert ends(more["total"]["calls"]) == (24 * 3, 24 * 3)
    assert ends(more["arms"][1]["plan"]["calls"]) == (24 * 11, 24 * 11)


@pytest.mark.parametrize("techniques", [("-t", "self_consistency(n=12,stop=settled)"), ("-t", "beam_search"), ARMS])
def test_where_replies_decide_the_interval_holds(shoal: Shell, techniques: tuple[str, ...]) -> None:
    arms = (*techniques, "-t", "self_consistency(n=6,stop=settled)")
    total = plan(shoal, *COMPARE, *arms)["total"]
    assert shoal(*COMPARE, *arms, "--quiet")[0] == 0
    low, high = ends(total["calls"])
    assert low <= lines("asked") <= high
    assert low < high
    assert ends(total["wire_requests"]) == (low, high)


def test_fused_requests_are_within_what_was_planned(shoal: Shell) -> None:
    """More rows than are under way at once, on a server that takes four draws of a question in a request."""
    rows = [{"q": f"question {i:03}", "gold": 1} for i in range(150)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with echo_server() as server:
        Path("shoal.toml").write_text(
            f'[endpoints.lab]\nbase_url = "{server.base_url}"\nmax_n = 4\nmax_in_flight = 4\n'
            '[prices."lab/m"]\ninput = 1.0\noutput = 10.0\n'
        )
        of = (*COMPARE[:-1], "lab/m", "-t", "self_consistency(n=8)", "-t", "self_consistency(n=3)", "--max-tokens", "9")
        told = plan(shoal, *of)
        assert not server.bodies
        assert shoal(*of, "--quiet")[0] == 0
        total, sent = told["total"], len(server.bodies)
    draws = sum(body.get("n", 1) for body in server.bodies)
    assert ends(total["calls"]) == (draws, draws)
    assert ends(total["wire_requests"])[0] <= sent <= ends(total["wire_requests"])[1]
    assert total["dollars"]["least"] < total["dollars"]["most"]


def test_models_that_rate_answers_are_counted_curves_included(shoal: Shell) -> None:
    of = ("compare", "data.jsonl", "-p", "{q}", "--scorer", "judge(model=scripted/s.py:judge)")
    of = (*of, "--answer", "gold", "-m", "scripted/s.py:guess", "-t", "self_consistency(n=1..4)")
    told = plan(shoal, *of)
    code, _, err = shoal(*of, "--quiet")
    assert (code, err) == (0, "")
    models = {model["model"]: model for model in told["total"]["models"]}
    assert ends(models["scripted/s.py:guess"]["calls"]) == (lines("asked"), lines("asked"))
    low, high = ends(models["scripted/s.py:judge"]["calls"])
    assert low <= lines("judged") <= high
    assert low >= 24
    assert all(len(arm["plan"]["models"]) == 1 for arm in told["arms"])


def test_a_pilot_is_run_for_real_and_kept_for_the_comparison(shoal: Shell) -> None:
    arms = ("-t", "self_consistency(n=1..8,stop=settled)")
    told = plan(shoal, *COMPARE, *arms, "--pilot", "6")
    first = lines("asked")
    assert told["total"]["pilot"]["calls"] == first > 0
    assert told["total"]["left"] == 18
    assert shoal(*COMPARE, *arms, "--quiet")[0] == 0
    low, high = ends(told["total"]["calls"])
    assert low <= lines("asked") - first <= high


def test_an_equal_budget_in_calls_is_planned_as_it_comes(shoal: Shell) -> None:
    of = (*COMPARE, "-t", "self_consistency(n=2)", "-t", "critique", "--equal-budget", "calls=7", "--pilot", "5")
    unasked = plan(shoal, *of[:-2])
    assert unasked["sizing"]["sizes"] == {"self_consistency(n=2)": [7, 7], "critique": [3, 3]}
    assert unasked["sizing"]["rows"] == 10
    assert not Path("runs").exists()
    assert shoal(*of[:-2], "--quiet")[0] == 0
    assert ends(unasked["total"]["calls"]) == (lines("asked"), lines("asked"))


def test_an_equal_budget_in_tokens_is_an_interval_until_a_pilot_has_chosen(shoal: Shell) -> None:
    of = (*COMPARE, "-t", "self_consistency(n=2)", "--equal-budget", "tokens=90", "--max-tokens", "12")
    unasked = plan(shoal, *of)
    (low, high), calls = unasked["sizing"]["sizes"]["self_consistency(n=2)"], unasked["total"]["calls"]
    assert low < high
    assert any("depend on" in note for note in unasked["total"]["notes"])
    chosen = plan(shoal, *of, "--pilot", "10")
    assert lines("asked") > 0
    assert shoal(*of, "--quiet")[0] == 0
    n = int(chosen["arms"][1]["name"].split("=")[1].rstrip(")"))
    assert low <= n <= high
    assert calls["least"] <= lines("asked") <= calls["most"]
    assert plan(shoal, *of)["sizing"]["sizes"] == {"self_consistency(n=2)": [n, n]}


def test_the_table_says_each_arm_and_the_total(shoal: Shell) -> None:
    code, out, err = shoal(*COMPARE, "-t", "self_consistency(n=1..64)", "--equal-budget", "calls=4", "--plan")
    assert (code, err) == (0, "")
    assert out.startswith("each alone")
    assert "self_consistency(n=4)  96" in out
    assert "sizes are chosen on 10 rows" in out
    assert "\ntogether, draws in common counted once" in out
    assert lines("asked") == 0
    code, _, err = shoal(*COMPARE, "--plan", "--replay")
    assert (code, len(err.splitlines())) == (2, 1)
