"""`shoal compare` as people use it: its table, its words, one line for a mistake, and going on after it was stopped."""

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.cli.shell import Shell

SCRIPT = """
import asyncio, os, random

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def guess(request):
    os.write(asked, f"{request.text!r} {request.sample}\\n".encode())
    os.write(1, b".")  # a process that is to be stopped is waited for by these
    await asyncio.sleep(0.02 * (len(request.text) % 7))
    if "stuck" in request.text:
        await asyncio.Event().wait()
    chance = random.Random(f"{request.text} {request.sample}")
    return f"The answer is {len(request.text) + (chance.random() > 0.7) * chance.randint(1, 3)}."
"""


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    write(*(f"question {'x' * (i % 7)} {i:03}" for i in range(40)))


def write(*questions: str) -> None:
    rows = [{"q": question, "gold": len(question)} for question in questions]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


COMPARE = ("compare", "data.jsonl", "-p", "{q}", "--answer", "gold", "--scorer", "number", "-m", "scripted/s.py:guess")


def asked() -> list[str]:
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


def test_the_table_and_the_words_say_what_was_found(shoal: Shell) -> None:
    code, out, err = shoal(*COMPARE, "-t", "self_consistency(n=1..8)", "-t", "re_reading", "--report-dir", "r")
    assert (code, out) == (0, "")
    assert "accuracy" in err
    assert "◆" in err
    assert "self_consistency(n=8)" in err.replace("\n", "").replace(" ", "")
    assert "Better than plain: self_consistency(n=8) (+" in " ".join(err.split())
    assert "r/report.html" in err
    comparison = json.loads(Path("r/comparison.json").read_text())
    assert [arm["name"] for arm in comparison["arms"]] == ["plain", "self_consistency(n=8)", "re_reading"]
    assert [point["n"] for point in comparison["arms"][1]["curve"]] == [1, 2, 4, 8]
    assert comparison["data"] == "data.jsonl"
    assert "self_consistency(n=8)" in Path("r/report.html").read_text()
    assert len(asked()) == len(set(asked())) == 40 * (1 + 8 + 1)


def test_json_is_the_comparison_and_the_default_directory_has_a_name(shoal: Shell) -> None:
    code, out, err = shoal(*COMPARE, "--limit", "5", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"] == 5
    assert json.loads(out) == json.loads(Path("runs/compare-data-scripted_s.py_guess/comparison.json").read_text())


def test_an_arm_added_later_asks_only_for_what_is_new(shoal: Shell) -> None:
    shoal(*COMPARE, "-t", "self_consistency(n=4)", "--quiet")
    before = len(asked())
    code, _, err = shoal(*COMPARE, "-t", "self_consistency(n=6)", "-t", "self_consistency(n=4)")
    assert code == 0
    assert len(asked()) - before == 40 * 2
    assert "of 40" not in err
    code, _, err = shoal(*COMPARE, "-t", "best_of_n(n=4)", "--replay")
    assert code == 1
    assert "best_of_n(n=4) is left out: not in the cache" in " ".join(err.split())


def test_failed_rows_give_exit_code_1_and_are_told(shoal: Shell) -> None:
    Path("bad.py").write_text("def answer(r):\n    if 'b' in r.text: raise ValueError('a bug')\n    return '1'\n")
    Path("d.csv").write_text("prompt,gold\na,1\nb,1\nc,\n")
    code, _, err = shoal("compare", "d.csv", "--answer", "gold", "-m", "scripted/bad.py:answer")
    assert code == 1
    assert "plain: 1 row failed and count as wrong (1 EngineError)" in " ".join(err.split())
    assert "1 row without a target in 'gold' left out" in " ".join(err.split())
    assert "Nothing was compared with it." in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--answer", "golt"], "--answer names column 'golt'; data.jsonl has none: did you mean gold?"),
        (["--answer", ""], "--scorer needs --answer COLUMN"),
        (["--scorer", "numbr"], "unknown scorer 'numbr'; did you mean number?"),
        (["-p", "{question}"], "the template names column 'question'"),
        (["-t", "self_consistency(n=0..4)"], "expected one range, upwards from at least 1"),
        (["-t", "self_consistncy"], "did you mean self_consistency?"),
        (["-t", "two_turn", "-t", "two_turn"], "two_turn is given twice"),
        (["--equal-budget", "token=3"], "did you mean tokens?"),
        (["--equal-budget", "dollars=3"], "an equal budget in dollars needs a model that costs some"),
        (["--budget", "rows=3"], "budget 'rows'"),
        (["--no-plain"], "nothing to compare: give at least one technique"),
        (["-m", "nowhere/m"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_asked(shoal: Shell, changes: list[str], said: str) -> None:
    code, out, err = shoal(*COMPARE, *changes)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert asked() == []


def test_another_prompt_in_the_same_directory_is_refused(shoal: Shell) -> None:
    shoal(*COMPARE, "--quiet", "--report-dir", "r")
    before = len(asked())
    code, _, err = shoal(*COMPARE, "-p", "{q}!", "--report-dir", "r")
    assert code == 2
    assert 'r holds a run with prompt="{q}", now prompt="{q}!"; choose another --report-dir' in err
    assert len(asked()) == before


def test_a_spent_budget_is_told(shoal: Shell) -> None:
    code, _, err = shoal(*COMPARE, "--budget", "calls=10", "--quiet")
    assert code == 1
    assert "stopped: the budget of 10 calls is spent; the same command with a larger --budget resumes" in err
    assert len(asked()) == 10
    assert shoal(*COMPARE, "--quiet")[0] == 0
    assert len(asked()) == 40


ARMS = ("-t", "self_consistency(n=1..4)", "-t", "critique(rounds=1)", "--quiet")


def started(*more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "shoal", *COMPARE, *ARMS, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(draws: int, process: "subprocess.Popen[str]") -> None:
    """Until the process has asked for so many draws more."""
    assert process.stdout is not None
    assert len(process.stdout.read(draws)) == draws


def found(directory: str) -> Any:
    """What was found, without what the clock and the order of payment have a say in."""
    comparison = json.loads(Path(directory, "comparison.json").read_text())
    for arm in comparison["arms"]:
        del arm["paid_tokens"], arm["seconds"]
    del comparison["made"], comparison["notes"]
    return comparison


def kept(directory: str) -> int:
    """The draws in the pool."""
    pool = Path(directory, "draws.sqlite")
    if not pool.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{pool}?mode=ro", uri=True)) as reader:
        tables = reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'draw'").fetchone()[0]
        return int(reader.execute("SELECT count(*) FROM draw").fetchone()[0]) if tables else 0


@pytest.mark.timeout(300)
def test_killed_again_and_again_it_ends_as_if_it_had_not_been() -> None:
    whole = started("--report-dir", "whole")
    _, err = whole.communicate(timeout=60)
    assert whole.returncode == 0, err
    once = Counter(asked())
    assert set(once.values()) == {1}
    Path("asked").unlink()
    chance = random.Random(4)
    unsaved = 0
    for _ in range(4):
        process = started("--report-dir", "killed")
        wait_for(chance.randint(5, 60), process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        unsaved += len(set(asked())) - kept("killed")
    last = started("--report-dir", "killed")
    _, err = last.communicate(timeout=60)
    assert last.returncode == 0, err
    assert found("killed") == found("whole")
    assert set(asked()) == set(once)
    total = len(asked())
    assert total - len(once) <= unsaved  # only a draw that was not kept yet is asked again
    last = started("--report-dir", "killed")
    last.communicate(timeout=60)
    assert last.returncode == 0
    assert len(asked()) == total


def test_ctrl_c_lets_calls_finish_and_the_same_command_resumes() -> None:
    process = started("--report-dir", "r")
    wait_for(30, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping: calls under way are let finish" in err
    assert "interrupted; the same command resumes in r" in err
    assert not Path("r/comparison.json").exists()
    again = started("--report-dir", "r")
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert set(Counter(asked()).values()) == {1}


def test_a_second_ctrl_c_cuts_calls_off() -> None:
    write("a question", "one that is stuck")
    process = started("--report-dir", "r")
    assert process.stderr is not None
    while not any("stuck" in line for line in asked()):
        wait_for(1, process)
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again cuts them off" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; the same command resumes in r" in err
