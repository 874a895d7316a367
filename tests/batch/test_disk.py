"""A disk that fills up stops a run by name and costs nothing that was finished."""

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

SCRIPT = """
def answer(request):
    with open("asked", "a") as asked:
        asked.write(request.text[:20] + "\\n")
    return "x" * 2000
"""


def started(*options: str, most_bytes: int | None = None) -> "subprocess.CompletedProcess[str]":
    """A run whose files may not grow beyond `most_bytes`, which to it is a full disk."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "shoal", "run", "data.jsonl", "-m", "scripted/s.py:answer", *options]
    measured = "COVERAGE_PROCESS"  # whose file would not find room either
    known = {name: value for name, value in os.environ.items() if not name.startswith(measured)}
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False, env=known)


def prepare(rows: int = 200) -> None:
    Path("s.py").write_text(SCRIPT)
    lines = (json.dumps({"prompt": f"question {i:03} " + "y" * 1000}) + "\n" for i in range(rows))
    Path("data.jsonl").write_text("".join(lines))


def test_a_full_disk_stops_the_run_by_name_and_loses_nothing() -> None:
    prepare()
    full = started("--run-dir", "run", "--no-cache", "--max-in-flight", "4", most_bytes=300_000)
    assert full.returncode == 1
    assert full.stderr.count("shoal: StoreError: run/journal.sqlite") == 1
    assert "MiB free on its disk; nothing finished is lost" in full.stderr
    assert "Traceback" not in full.stderr
    asked_before = Path("asked").read_text().splitlines()
    again = started("--run-dir", "run", "--no-cache", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["finished"] == 200
    repeated = Counter(Path("asked").read_text().splitlines()).total() - 200
    assert len(asked_before) - repeated > 0  # what had been journalled was not asked again
