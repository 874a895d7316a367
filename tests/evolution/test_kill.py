"""kill -9 at any moment, and a disk that fills up: the same call ends as if nothing had been, and repeats no call."""

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.evolution.test_running import files

KILLS = 6
PROGRAM = """
import asyncio, os, re, sys
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import StoreError
from shoal.evaluation.scorers import open_scorer
from shoal.evolution import Decoders, Settings, Task, breed

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def answer(request):
    os.write(asked, f"{hash_of(request)}\\n".encode())
    os.write(1, b".")
    await asyncio.sleep(0.001)
    number = sum(request.sample)
    question = re.search(r"Say (\\d+)\\.", request.text)
    if question is None:
        return f"prompt {number % 7}" + " long" * LENGTH
    return question[1] if (int(question[1]) + number) % 3 else "wrong"

def hash_of(request):
    from hashlib import blake2b
    return blake2b(repr((request.messages, request.sample)).encode(), digest_size=8).hexdigest()

async def embed(texts):
    return [[1.0, float(len(text))] for text in texts]

LENGTH = int(sys.argv[2])
rows = [{"question": f"Say {i}.", "answer": str(i)} for i in range(40)]
sampled = Decoders(inducer={"temperature": 0.5}, evaluator={"temperature": 0.5})
task = Task("toy", "Say the number.", rows, "answer", open_scorer("exact"), decoders=sampled)
settings = Settings(population_size=7, generations=6, prompts_per_unit=1, batch=8, speculate=len(sys.argv) > 3)
model = BaseModel(ScriptedBackend(answer))
try:
    result = breed(task, model=model, settings=settings, run_dir=sys.argv[1], embed=embed)
except StoreError as error:
    sys.exit(f"StoreError: {error}")
print(result.ended)
"""


def command(place: str, *options: str, length: int = 0) -> list[str]:
    return [sys.executable, "program.py", place, str(length), *options]


def asked() -> list[str]:
    """Every draw asked of the model so far, by any process."""
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


def journalled(place: str) -> int:
    journal = Path(place, "journal.sqlite")
    if not journal.exists():
        return 0
    reader = sqlite3.connect(journal)
    try:
        return int(reader.execute("SELECT count(*) FROM draw").fetchone()[0])
    except sqlite3.OperationalError:  # killed before the tables were made
        return 0
    finally:
        reader.close()


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(PROGRAM)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [(), ("speculate",)])
def test_kill_at_random_moments(options: tuple[str, ...]) -> None:
    subprocess.run(command("whole", *options), check=True, stdout=subprocess.DEVNULL)
    whole = Counter(asked())
    Path("asked").unlink()
    chance = random.Random(7)
    unsaved = kills = 0
    for _ in range(KILLS):
        # The moment is told by what has been asked: evenly over the run, and now and then in the middle of opening.
        more = chance.choice([0, *range(1, 2 * len(whole) // KILLS)])
        with subprocess.Popen(command("killed", *options), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read(more)  # waits for so many draws, or the end
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        kills += process.returncode != 0
        for path in Path("killed").rglob("*.json"):
            json.loads(path.read_bytes())  # each is whole
        unsaved += len(set(asked())) - journalled("killed")
    done = subprocess.run(command("killed", *options), check=True, capture_output=True, text=True)
    assert done.stdout.lstrip(".") == "generations\n"
    draws = Counter(asked())
    assert kills >= KILLS - 2
    assert draws.keys() == whole.keys()
    # Only a draw that had not reached the journal when the process died is asked again.
    assert draws.total() - len(draws) <= unsaved
    assert files(Path("killed")) == files(Path("whole"))


def test_a_full_disk_is_said_in_a_line_and_loses_nothing() -> None:
    """A process whose files may not grow beyond so many bytes, which to it is a full disk."""
    limit = 200_000
    measured = "COVERAGE_PROCESS"  # whose file would not find room either
    full = subprocess.run(
        command("full", length=300),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={name: value for name, value in os.environ.items() if not name.startswith(measured)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1
    assert full.stderr.startswith("StoreError: full/")
    assert full.stderr.count("\n") == 1
    before = len(asked())
    subprocess.run(command("full", length=300), check=True)
    draws = Counter(asked())
    assert draws.total() - len(draws) < before  # what had been journalled was not asked again
    subprocess.run(command("whole", length=300), check=True)
    assert files(Path("full")) == files(Path("whole"))
