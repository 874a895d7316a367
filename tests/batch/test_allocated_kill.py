"""kill -9 in an allocated run: the same command takes the same decisions, so it ends with the same draws and bytes."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.batch.test_kill import asked, journalled, killed_often

ROWS, KILLS, CALLS = 90, 8, 540
SCRIPT = """
import asyncio, os, random

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def answer(request):
    os.write(asked, f"{request.text} {request.sample}\\n".encode())
    chance = random.Random(f"{request.text} {request.sample}")
    await asyncio.sleep(0.005 * random.random())
    share = (1.0, 0.8, 0.5)[int(request.text.split()[1]) % 3]
    return ("well " * chance.randrange(9)) + f"The answer is {1 if chance.random() < share else 2}."
"""


def command(directory: Path, *budget: str) -> list[str]:
    run = ["run", "data.jsonl", "-p", "{q}", "-m", "scripted/s.py:answer", "-t", "self_consistency(n=6)"]
    run += ["--allocate", "--budget", *budget, "--max-tokens", "16", "--run-dir", str(directory)]
    return [sys.executable, "-m", "shoal", *run, "--no-cache", "--quiet", "--max-in-flight", "8"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("budget", [f"calls={CALLS}", "tokens=7500"])
def test_kill_at_random_moments(tmp_path: Path, budget: str) -> None:
    Path("s.py").write_text(SCRIPT)
    Path("data.jsonl").write_text("".join(json.dumps({"q": f"question {i:03}"}) + "\n" for i in range(ROWS)))
    subprocess.run(command(tmp_path / "whole", budget), check=True)
    whole = Counter(asked(tmp_path))
    Path("asked").unlink()
    journal = tmp_path / "killed" / "journal.sqlite"
    kills, unsaved = killed_often(command(tmp_path / "killed", budget), journal, draws=len(whole), times=KILLS)
    subprocess.run(command(tmp_path / "killed", budget), check=True)
    draws = Counter(asked(tmp_path))
    assert kills >= KILLS // 2
    assert draws.keys() == whole.keys()
    assert journalled(journal) == len(whole)
    assert draws.total() - len(draws) <= unsaved  # only what had not reached the journal is asked again
    assert (tmp_path / "killed" / "output.jsonl").read_bytes() == (tmp_path / "whole" / "output.jsonl").read_bytes()
    subprocess.run(command(tmp_path / "killed", budget), check=True)
    assert Counter(asked(tmp_path)) == draws
