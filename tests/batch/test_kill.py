"""kill -9 at any moment: the same command ends with every row once, no journalled draw asked again, the same bytes."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROWS, KILLS = 300, 20
SCRIPT = """
import asyncio, os

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def answer(request):
    os.write(asked, f"{request.text} {request.sample}\\n".encode())
    await asyncio.sleep(0.001)
    return f"The answer is {len(request.text) + request.sample[0] % 3}."
"""


def command(directory: Path) -> list[str]:
    run = ["run", "data.jsonl", "-p", "{q}", "-m", "scripted/s.py:answer", "-t", "self_consistency(n=3)"]
    return [
        sys.executable,
        "-m",
        "shoal",
        *run,
        "--run-dir",
        str(directory),
        "--no-cache",
        "--quiet",
        "--max-in-flight",
        "8",
    ]


def asked(tmp_path: Path) -> list[str]:
    """Every draw asked of the model so far, by any process."""
    return (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []


def journalled(journal: Path) -> int:
    if not journal.exists():
        return 0
    reader = sqlite3.connect(journal)
    try:
        return int(reader.execute("SELECT count(*) FROM draw").fetchone()[0])
    except sqlite3.OperationalError:  # killed before the tables were made
        return 0
    finally:
        reader.close()


def killed_often(command: list[str], journal: Path, draws: int, times: int) -> tuple[int, int]:
    """Start a run of so many draws again and again, and kill it: how often in time, and what was not journalled then.

    The moment is told by what has been asked: evenly over what is left, for a busy machine looks late and each kill
    then comes after more of it; and now and then in the middle of opening.
    """
    chance = random.Random(7)
    place = journal.parents[1]
    unsaved = kills = 0
    for more_times in range(times, 0, -1):
        before = asked(place)
        left = draws - len(set(before))
        more = chance.choice([0, *range(1, min(left, 2 * left // more_times))])
        process = subprocess.Popen(command)
        while process.poll() is None:
            if len(asked(place)) >= len(before) + more:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL)
        unsaved += len(set(asked(place))) - journalled(journal)
    return kills, unsaved


@pytest.mark.timeout(300)
def test_kill_at_random_moments(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"q": f"question {i:03}"}) + "\n" for i in range(ROWS)))
    subprocess.run(command(tmp_path / "whole"), check=True)
    (tmp_path / "asked").unlink()
    journal = tmp_path / "killed" / "journal.sqlite"
    kills, unsaved = killed_often(command(tmp_path / "killed"), journal, draws=3 * ROWS, times=KILLS)
    subprocess.run(command(tmp_path / "killed"), check=True)
    draws = Counter(asked(tmp_path))
    assert kills >= KILLS - 2
    assert journalled(journal) == len(draws) == 3 * ROWS
    # Only a draw that had not reached the journal when the process died is asked again.
    assert draws.total() - len(draws) <= unsaved
    assert (tmp_path / "killed" / "output.jsonl").read_bytes() == (tmp_path / "whole" / "output.jsonl").read_bytes()
    subprocess.run(command(tmp_path / "killed"), check=True)
    assert Counter(asked(tmp_path)) == draws
