"""The command line as people use it: what it prints where, its exit codes, and one line for every mistake."""

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.shell import Shell

SCRIPT = """
import asyncio
from shoal.errors import AuthenticationFailed

def sums(request):
    if "fail" in request.text:
        raise AuthenticationFailed("the key was refused", endpoint="lab", status=401)
    numbers = [int(word) for word in request.text.split() if word.isdigit()]
    wrong = request.sample == (1,)
    return f"That makes {sum(numbers)}. The answer is {sum(numbers) + wrong}."

def long(request):
    return "a prompt of " + str(len(request.messages)) + " turns"
"""
ROWS = [{"id": f"r{i}", "question": f"What is {i} plus {i} ?", "gold": str(2 * i)} for i in range(6)]


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


RUN = ("run", "data.jsonl", "-p", "{question}", "-m", "scripted/s.py:sums")


def test_run(shoal: Shell) -> None:
    code, out, err = shoal(
        *RUN, "-t", "self_consistency(n=3)", "--answer", "gold", "--scorer", "number", "-o", "out.jsonl"
    )
    assert (code, out) == (0, "")
    for said in ("accuracy", "100.0% of 6", "calls", "18", "tokens", "output", "out.jsonl"):
        assert said in err
    written = records(Path("out.jsonl"))
    assert [r["id"] for r in written] == [f"r{i}" for i in range(6)]
    assert written[3] == {
        "id": "r3",
        "input": ROWS[3],
        "output": "That makes 6. The answer is 6.",
        "answer": "6",
        "model": "scripted/s.py:sums",
        "technique": "self_consistency(n=3)",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 18, "completion_tokens": 21, "cached_calls": 0, "calls": 3},
        "score": 1.0,
        "error": None,
    }


def test_run_again_makes_no_call_and_the_same_output(shoal: Shell) -> None:
    shoal(*RUN, "-o", "a.jsonl")
    code, out, _ = shoal(*RUN, "-o", "b.jsonl", "--json")
    assert code == 0
    assert json.loads(out)["calls"] == 6
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()


def test_another_run_of_the_same_prompts_comes_from_the_cache(shoal: Shell) -> None:
    shoal(*RUN)
    _, out, _ = shoal(*RUN, "--run-dir", "elsewhere", "--json")
    assert (json.loads(out)["calls"], json.loads(out)["cached_calls"]) == (0, 6)
    _, out, _ = shoal(*RUN, "--run-dir", "third", "--json", "--no-cache")
    assert (json.loads(out)["calls"], json.loads(out)["cached_calls"]) == (6, 0)


def test_output_to_standard_output(shoal: Shell) -> None:
    code, out, err = shoal(*RUN, "-o", "-", "--quiet", "--limit", "2")
    assert (code, err) == (0, "")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["r0", "r1"]


def test_a_failed_row_is_a_record_and_exit_code_1(shoal: Shell) -> None:
    with Path("data.jsonl").open("a") as data:
        data.write(json.dumps({"id": "bad", "question": "fail", "gold": "0"}) + "\n")
    code, _, err = shoal(*RUN, "-o", "out.jsonl")
    assert code == 1
    assert "1 AuthenticationFailed" in err
    last = records(Path("out.jsonl"))[-1]
    assert last["output"] is None
    assert last["error"] == {"type": "AuthenticationFailed", "message": "lab: the key was refused"}


def test_a_budget_leaves_records_and_says_how_to_go_on(shoal: Shell) -> None:
    code, _, err = shoal(*RUN, "--budget", "calls=2", "-o", "out.jsonl")
    assert code == 1
    assert "a larger --budget resumes" in err
    assert [r["error"] and r["error"]["type"] for r in records(Path("out.jsonl"))] == [None] * 2 + [
        "BudgetExceeded"
    ] * 4
    code, out, _ = shoal(*RUN, "--json")
    assert (code, json.loads(out)["calls"]) == (0, 6)


def test_messages_column_and_system(shoal: Shell) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    Path("chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    code, out, _ = shoal(
        "run", "chat.jsonl", "--messages", "messages", "-m", "scripted/s.py:long", "--system", "S", "-o", "-", "--quiet"
    )
    assert code == 0
    assert json.loads(out)["output"] == "a prompt of 4 turns"


def test_rows_from_standard_input(shoal: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    code = subprocess.run(
        [sys.executable, "-m", "shoal", "run", "-", *RUN[2:], "-o", "out.jsonl", "--quiet"],
        input=Path("data.jsonl").read_bytes(),
        check=False,
    ).returncode
    assert code == 0
    assert len(records(Path("out.jsonl"))) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "no command 'runn'; did you mean run?"),
        (["run", "no.jsonl"], "no.jsonl: no such file"),
        (["run", "data.jsonl", "-p", "{qestion}"], "did you mean question?"),
        (["run", "data.jsonl"], "names column 'prompt'; data.jsonl has none"),
        (["run", "data.jsonl", "--messages", "turns"], "--messages names column 'turns'"),
        (["run", "data.jsonl", "-p", "x", "--messages", "id"], "not both"),
        (["run", "data.jsonl", "-p", "x", "-m", "locl"], "unknown model 'locl'; did you mean local?"),
        (["run", "data.jsonl", "-p", "x", "-t", "bonn"], "unknown technique 'bonn'"),
        (["run", "data.jsonl", "-p", "x", "-t", "bon(m=1)"], "bon has no option 'm'"),
        (["run", "data.jsonl", "-p", "x", "--answer", "god"], "did you mean gold?"),
        (["run", "data.jsonl", "-p", "x", "--answer", "gold", "--scorer", "numbr"], "did you mean number?"),
        (["run", "data.jsonl", "-p", "x", "--scorer", "number"], "--scorer needs --answer"),
        (["run", "data.jsonl", "-p", "x", "--budget", "cals=1"], "did you mean calls?"),
        (["run", "data.jsonl", "--limt", "3"], "No such option '--limt'"),
        (["run", "data.jsonl", "--limit", "0"], "Invalid value for '--limit'"),
        (["run"], "nothing to run: give DATA, or --template with --args"),
        (["ask", "Q", "--config", "no.toml"], "no configuration file no.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(shoal: Shell, arguments: list[str], said: str) -> None:
    code, out, err = shoal(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_changed_option_is_named(shoal: Shell) -> None:
    shoal(*RUN)
    code, _, err = shoal(*RUN, "--temperature", "0.5")
    assert code == 2
    assert "holds a run with temperature=null, now temperature=0.5; choose another --run-dir" in err


def test_ask(shoal: Shell) -> None:
    code, out, err = shoal("ask", "What is 2 plus 3 ?", "-m", "scripted/s.py:sums")
    assert (code, out, err) == (0, "That makes 5. The answer is 5.\n", "")


def test_ask_as_json(shoal: Shell) -> None:
    _, out, _ = shoal("ask", "What is 2 plus 3 ?", "-m", "scripted/s.py:sums", "-t", "self_consistency(n=2)", "--json")
    completion = json.loads(out)
    assert (completion["answer"], completion["usage"]["calls"]) == ("5", 2)


def test_ask_with_trace(shoal: Shell) -> None:
    _, out, err = shoal(
        "ask", "What is 2 plus 3 ?", "-m", "scripted/s.py:sums", "-t", "self_consistency(n=3)", "--trace"
    )
    assert out == "That makes 5. The answer is 5.\n"
    assert "self_consistency(n=3)  3 calls" in err
    assert "scripted/s.py:sums #2" in err
    assert "critical path ● 1 call," in err


def test_ask_that_fails(shoal: Shell) -> None:
    code, out, err = shoal("ask", "fail", "-m", "scripted/s.py:sums")
    assert (code, out) == (1, "")
    assert err == "shoal: AuthenticationFailed: lab: the key was refused\n"


def test_catalogues(shoal: Shell) -> None:
    _, out, _ = shoal("techniques", "--json")
    assert json.loads(out)["critique"]["calls"] == "2 * rounds + 1"
    assert "self_consistency" in shoal("techniques")[1]
    told = shoal("techniques", "bon")[1]
    assert "best_of_n  (bon)" in told
    assert "  judge=None\n" in told
    code, _, said = shoal("techniques", "bom")
    assert (code, said) == (2, "shoal: unknown technique 'bom'; did you mean bon?\n")
    Path("shoal.toml").write_text(
        '[endpoints.lab]\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "${NOT_SET}"\n'
        '[engines.big]\nengine = "vllm"\nmodel = "org/big"\n'
    )
    _, out, _ = shoal("models", "--json")
    assert json.loads(out)["endpoints"] == {"lab": "http://127.0.0.1:1/v1"}
    assert json.loads(out)["engines"] == {"vllm/big": "org/big"}
    assert "lab/MODEL" in shoal("models")[1]
    assert re.search(r"^vllm/big +org/big$", shoal("models")[1], re.MULTILINE)
    assert all(form in shoal("models")[1] for form in ("gguf/PATH", "vllm/MODEL", "transformers/MODEL"))


def test_cache_info_and_clear(shoal: Shell) -> None:
    assert "no cache yet" in shoal("cache", "info")[1]
    shoal(*RUN)
    _, out, _ = shoal("cache", "info", "--json")
    assert json.loads(out)["draws"] == 6
    assert "6 draws of 6 questions" in shoal("cache", "info")[1]
    assert shoal("cache", "clear", "--yes")[0] == 0
    assert "no cache yet" in shoal("cache", "info")[1]


def test_a_file_that_is_not_a_cache_is_left_alone(shoal: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect("theirs.db") as theirs:
        theirs.execute("CREATE TABLE notes (text)")
    monkeypatch.setenv("SHOAL_CACHE", "theirs.db")
    code, _, err = shoal("cache", "clear", "--yes")
    assert code == 1
    assert "left alone" in err
    assert Path("theirs.db").exists()


def test_version_and_help(shoal: Shell) -> None:
    assert shoal("--version")[1].startswith("shoal, version ")
    assert "techniques" in shoal("--help")[1]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_shows_every_option_once_under_a_heading(shoal: Shell, command: str) -> None:
    told = shoal(command, "--help")[1]
    options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", told, re.MULTILINE)
    assert sorted(options) == sorted(set(options))
    assert {"--prompt", "--model", "--budget", "--shard", "--tail-live", "--json"} <= set(options)
    assert re.findall(r"^  (?:-\w, )?--[a-z-]+", told.split("\nOthers:\n")[1], re.MULTILINE) == ["  -h, --help"]


SLOW = """
import asyncio, pathlib

async def answer(request):
    with open("asked", "a") as asked:
        asked.write(request.text + "\\n")
    await asyncio.sleep(0.05)
    if request.text == "stuck":
        await asyncio.Event().wait()
    return "done"
"""


def started(*prompts: str) -> "subprocess.Popen[str]":
    """A run of slow prompts, two at once, as a process of its own."""
    Path("slow.py").write_text(SLOW)
    Path("n.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = [sys.executable, "-m", "shoal", "run", "n.jsonl", "-m", "scripted/slow.py:answer", "-o", "out.jsonl"]
    return subprocess.Popen([*command, "--max-in-flight", "2"], stderr=subprocess.PIPE, text=True)


def finished() -> int:
    """Rows in the journal of the only run."""
    for journal in Path("runs").glob("*/journal.sqlite"):
        with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
            tables = reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'row'").fetchone()[0]
            return int(reader.execute("SELECT count(*) FROM row").fetchone()[0]) if tables else 0
    return 0


def test_ctrl_c_lets_calls_under_way_finish_and_the_same_command_resumes() -> None:
    prompts = [str(i) for i in range(20)]
    process = started(*prompts)
    while finished() < 4:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping: calls under way are let finish" in err
    assert "the same command resumes in runs" in err
    done = records(Path("out.jsonl"))
    assert 4 <= len(done) < 20
    assert len(done) == len(Path("asked").read_text().split())
    again = started(*prompts)
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert [r["id"] for r in records(Path("out.jsonl"))] == list(range(20))
    assert sorted(Path("asked").read_text().split(), key=int) == prompts


def test_a_second_ctrl_c_cuts_calls_off() -> None:
    process = started("a", "stuck")
    assert process.stderr is not None
    while finished() < 1:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again cuts them off" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted with 1 rows left" in err
    assert [r["id"] for r in records(Path("out.jsonl"))] == [0]


def test_a_first_row_that_cannot_be_asked_is_one_record_with_a_technique_too(shoal: Shell) -> None:
    Path("m.jsonl").write_text('{"messages": 5}\n{"messages": [{"role": "user", "content": "What is 1 plus 1 ?"}]}\n')
    ask = ("run", "m.jsonl", "--messages", "messages", "-m", "scripted/s.py:sums", "-t", "self_consistency(n=2)")
    code, _, err = shoal(*ask, "--run-dir", "r", "--quiet")
    assert (code, err) == (1, "")
    first, second = records(Path("r/output.jsonl"))
    assert "messages must be a non-empty list" in first["error"]["message"]
    assert second["error"] is None


def test_options_that_cannot_work_are_refused_for_programs_too(shoal: Shell) -> None:
    Path("p.jinja").write_text("{{ question }} {{ generate_text() }}")
    code, _, err = shoal(
        "run", "data.jsonl", "--program", "p.jinja", "-m", "scripted/s.py:sums", "-t", "self_consistency(n=0)"
    )
    assert (code, err) == (2, "shoal: self_consistency(n=0): n=0: must be at least 1\n")
