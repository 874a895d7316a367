"""Traces on the command line: kept by a run, listed, shown whole, and as pages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.shell import Shell
from tests.cli.test_cli import ROWS, RUN, SCRIPT

from shoal.traces.data import decode

TRACED = (*RUN, "-t", "self_consistency(n=3)", "--trace", "--run-dir", "kept", "--quiet")


@pytest.fixture(autouse=True)
def files(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (at_home / "s.py").write_text(SCRIPT)
    bad = {"id": "bad", "question": "fail", "gold": "0"}
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, bad]))


def test_the_rows_of_a_run(shoal: Shell) -> None:
    assert shoal(*TRACED)[0] == 1
    code, out, err = shoal("trace", "kept")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["id", "calls", "cached", "tokens", "seconds", "answer", "or", "error"]
    assert lines[4].split()[0] == "r3"
    assert lines[4].split()[1] == "3"
    assert lines[4].split()[-1] == "6"
    assert "AuthenticationFailed: lab: the key was refused" in lines[7]
    assert out.count("slowest") == 1
    assert lines[-1] == "one row: shoal trace kept ID"


def test_one_row_whole(shoal: Shell) -> None:
    shoal(*TRACED, "--system", "Be brief.")
    code, out, _ = shoal("trace", "kept", "r3")
    assert code == 0
    for said in ("row r3", "question: What is 3 plus 3 ?", "system: Be brief.", "asked the same", "#0", "#2", "●"):
        assert said in out
    assert "output: That makes 6. The answer is 7." in out
    assert "3 calls (0 cached)" in out
    assert shoal("trace", "kept", "#3")[1] == out


def test_a_failed_row_shows_its_error(shoal: Shell) -> None:
    shoal(*TRACED)
    code, out, _ = shoal("trace", "kept", "bad")
    assert code == 0
    assert out.count("AuthenticationFailed") >= 2


def test_pages(shoal: Shell) -> None:
    shoal(*TRACED)
    code, out, err = shoal("trace", "kept", "r3", "--html", "row.html")
    assert (code, out, err) == (0, "", "wrote row.html\n")
    page = Path("row.html").read_text("utf-8")
    assert "What is 3 plus 3 ?" in page
    assert "self_consistency(n=3)@scripted/s.py:sums" in page
    code, out, _ = shoal("trace", "kept", "--html", "-")
    assert code == 0
    assert out.startswith("<!DOCTYPE html>")
    assert out.count('<details class="row">') == 7
    assert "1 failed" in out


def test_a_large_run_shows_what_tells_most(shoal: Shell) -> None:
    rows = [{"id": f"n{i}", "question": f"{i} and {i}"} for i in range(150)]
    rows[77]["question"] = "fail"
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shoal(*RUN, "--trace", "--run-dir", "kept", "--quiet")
    _, out, _ = shoal("trace", "kept")
    assert len(out.splitlines()) == 43
    assert "n77" in out
    assert "the failed and the slowest of 150 rows; 1 failed" in out
    _, page, _ = shoal("trace", "kept", "--html", "-")
    assert page.count('<details class="row">') == 100
    assert "This page holds 100 of 150 rows" in page
    assert "shoal trace kept ID --html FILE" in page
    assert "AuthenticationFailed" in page


def test_trees_as_json(shoal: Shell) -> None:
    shoal(*TRACED)
    _, out, _ = shoal("trace", "kept", "--json")
    trees = [decode(line) for line in out.splitlines()]
    assert [tree.name for tree in trees] == [*(f"row r{i}" for i in range(6)), "row bad"]
    assert len(trees[0].calls()) == 3
    _, out, _ = shoal("trace", "kept", "r3", "--json")
    assert decode(out) == trees[3]


def test_a_run_stopped_before_any_row(shoal: Shell) -> None:
    shoal(*TRACED, "--budget", "calls=1")
    code, out, _ = shoal("trace", "kept")
    assert code == 0
    assert "no row is finished yet" in out
    assert "<h2>Rows</h2>" in shoal("trace", "kept", "--html", "-")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trace", "nowhere"), "shoal: nowhere: no such run directory"),
        (("trace", "plain"), "shoal: plain: this run kept no traces; run it with --trace"),
        (("trace", "kept", "r9"), "shoal: kept: no finished row 'r9'; did you mean r5?"),
        (("trace", "kept", "--html", "x", "--json"), "shoal: give --html or --json, not both"),
        (("ask", "Q?", "--html", "-"), "shoal: --html needs a file here"),
    ],
)
def test_mistakes_are_one_line(shoal: Shell, arguments: tuple[str, ...], said: str) -> None:
    shoal(*TRACED)
    shoal(*RUN, "--run-dir", "plain", "--quiet")
    code, out, err = shoal(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_tracing_does_not_make_another_run(shoal: Shell) -> None:
    shoal(*RUN, "--run-dir", "kept", "--json", "--limit", "6")
    code, out, _ = shoal(*RUN, "--run-dir", "kept", "--json", "--limit", "6", "--trace")
    assert (code, json.loads(out)["calls"]) == (0, 6)


def test_ask_writes_a_page(shoal: Shell) -> None:
    code, out, err = shoal("ask", "2 3", "-m", "scripted/s.py:sums", "-t", "self_consistency(n=3)", "--html", "a.html")
    assert code == 0
    assert "The answer is 5." in out
    assert err == "wrote a.html\n"
    assert "self_consistency(n=3)@scripted/s.py:sums" in Path("a.html").read_text("utf-8")


def test_ask_shows_a_failure(shoal: Shell) -> None:
    code, _, err = shoal("ask", "fail", "-m", "scripted/s.py:sums", "--trace", "--html", "a.html")
    assert code == 1
    assert err.endswith("shoal: AuthenticationFailed: lab: the key was refused\n")
    assert "scripted/s.py:sums" in err
    assert "It failed" in Path("a.html").read_text("utf-8")


SLOW = """
import asyncio
async def answer(request):
    if request.text != "0":
        await asyncio.sleep(60)
    return "done"
"""


def test_a_killed_run_keeps_the_traces_of_finished_rows(shoal: Shell) -> None:
    Path("s.py").write_text(SLOW)
    Path("data.jsonl").write_text('{"prompt": "0"}\n{"prompt": "1"}\n')
    command = [sys.executable, "-m", "shoal", "run", "data.jsonl", "-m", "scripted/s.py:answer", "--trace"]
    process = subprocess.Popen([*command, "--run-dir", "kept", "--quiet"])
    try:
        deadline = time.monotonic() + 60
        while "done" not in shoal("trace", "kept")[1]:
            assert time.monotonic() < deadline
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _, out, _ = shoal("trace", "kept", "--json")
    assert [tree.result for tree in map(decode, out.splitlines())] == ["done"]
