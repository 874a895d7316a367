"""`shoal evolve --optimizer gepa`, and --rollouts for both optimizers."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_evolve import ROWS, SCRIPT, facts, shoal
from tests.evolution.day_cares import TASK, folder, suite

import shoal as package

REFLECTS = """
def reflects(request):
    return "```\\nprompt " + str(number(request) % 1000) + "\\n```"
"""
HANGS = """
async def hangs(request):
    if not pathlib.Path("go on").exists():
        pathlib.Path("began").touch()
        await asyncio.Event().wait()
    return reflects(request)
"""
EVOLVE = ("evolve", "f", "--task", "good", "-m", "scripted/m.py:says", "--fitness_test_suite", "s.json")
GEPA = ("--optimizer", "gepa", "--reflection-model", "scripted/m.py:reflects", "--validation", "4", "--test_noCoT")


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    (at_home / "m.py").write_text(SCRIPT + REFLECTS + HANGS)
    folder(at_home / "f", {**TASK, "fixed_system_prompt": "Be brief."})
    suite(at_home / "s.json", ROWS)


def test_both_optimizers_at_equal_rollouts(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--population_size", "2", "--initial_prompts_per_unit", "2", "--batch", "5", "--test_noCoT")
    code, out, err = shoal(capsys, *EVOLVE, *small, "--rollouts", "90", "--json")
    assert code == 0, err
    bred = json.loads(out)
    code, out, err = shoal(capsys, *EVOLVE, *GEPA, "--rollouts", "90", "--json")
    assert code == 0, err
    climbed = json.loads(out)
    assert bred["rollouts"] == 80
    assert 80 < climbed["rollouts"] <= 90
    assert bred["comparison"]["rows"] == climbed["comparison"]["rows"] == 12
    assert facts("f/good/RUN_1/_config.json")["options"]["optimizer"] == "gepa"
    assert facts("f/good/RUN_1/candidates.json")["proposals"]
    assert Path(climbed["program"]).exists()


def stats_of_run() -> list[Path]:
    return list(Path("f/good/RUN_0").glob("generation_*_stats.json"))


def test_a_run_is_shown_and_goes_on_with_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shoal(capsys, *EVOLVE, *GEPA, "--rollouts", "60")
    assert code == 0
    assert "good: at most 60 questions, 12 rows held out" in err
    assert "generation 0 of 5, best" in err
    tried = sum(facts(str(path))["operators"].get("reflection", {"tried": 0})["tried"] for path in stats_of_run())
    births = facts("f/good/RUN_0/result.json")["history"] - 1
    assert tried > births  # not all join the pool
    assert re.search(rf"^reflection +{tried} ", err, re.MULTILINE)
    before = facts("f/good/RUN_0/result.json")
    again = ("evolve", "f", "--task", "good", "--continue_run_number", "0", "-m", "scripted/m.py:says")
    code, _, err = shoal(capsys, *again)
    assert code == 2
    assert "--reflection-model is 'scripted/m.py:reflects', a file; say so on the command line" in err
    code, _, err = shoal(capsys, *again, "--reflection-model", "scripted/m.py:reflects")
    assert code == 0, err
    assert facts("f/good/RUN_0/result.json") == before


def test_it_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = shoal(capsys, *EVOLVE, *GEPA, "--rollouts", "100", "--plan")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()[:3]] == [
        "rollouts       0 – 100 calls",
        "reflections    0 – 32 calls",
        "held-out rows  0 – 24 calls",
    ]
    assert not Path("f/good/RUN_0").exists()


def test_options_of_gepa_are_refused_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shoal(capsys, *EVOLVE, "--reflection-model", "scripted/m.py:reflects")
    assert code == 2
    assert "--reflection-model is for --optimizer gepa" in err
    code, _, err = shoal(capsys, *EVOLVE, *GEPA, "--rollouts", "5")
    assert code == 2
    assert "rollouts=5: the seed prompt and one other take 14" in err
    code, _, err = shoal(capsys, *EVOLVE, *GEPA, "--test_CoT")
    assert code == 2
    assert "gepa asks in one way: choose one of 'CoT', 'noCoT'" in err
    assert not Path("f/good/RUN_0").exists()


def test_ctrl_c_ends_it_and_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Twice, while a reflection never ends: the library's thread does not hold the process."""
    arguments = [*EVOLVE, *GEPA, "--rollouts", "60", "--run-dir", "r"]
    command = [sys.executable, "-m", "shoal", *(word.replace(":reflects", ":hangs") for word in arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not Path("began").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = ""
    while "stopping" not in said:
        said += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, said + rest
    assert "--run-dir r goes on from there" in rest
    assert "Traceback" not in said + rest
    arguments = [word.replace(":reflects", ":hangs") for word in arguments]
    Path("go on").touch()
    code, _, err = shoal(capsys, *arguments)
    assert code == 0, err
