"""A cluster of worker processes on this machine, and a scripted model that says whom it was asked by."""

import contextlib
import re
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
KEY = "sk-of-the-workers-alone"
SCRIPT = """
import asyncio, os
from pathlib import Path

here = Path(__file__).parent
asked = os.open(here / "asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
answered, workers = 0, set()

async def answer(request):
    global answered
    os.write(asked, f"{os.getpid()} {request.text} {request.sample}\\n".encode())
    while "both" in request.text and len(workers) < 2:
        workers.update(line.split()[0] for line in (here / "asked").read_text().splitlines())
        await asyncio.sleep(0.02)  # until both workers are at it, however late the second comes
    if "slow" in request.text:  # until all others of the same test are answered
        while answered < 39:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.002)
    answered += 1
    if "bad" in request.text:
        raise ValueError("no")
    return f"The answer is {len(request.text) + (request.sample or (0,))[0] % 3}."
"""


class Script(NamedTuple):
    """A scripted model: its spec, and every draw it was asked for, by which process."""

    spec: str
    log: Path

    def asked(self) -> list[tuple[int, str]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(pid), draw) for pid, _, draw in (line.partition(" ") for line in lines)]


def kept_by(pid: int, run_dir: Path) -> int:
    """The draws in the journal of a process."""
    (place,) = run_dir.glob(f"worker-*-{pid}-*")
    assert (place / "sealed").exists()
    with contextlib.closing(sqlite3.connect(place / "journal.sqlite")) as journal:
        return int(journal.execute("SELECT count(*) FROM draw").fetchone()[0])


def run_example(module: str, script: Script) -> Path:
    """Run the block of the docs that uses a module, on some questions and a scripted model; where its answers are."""
    parquet = pytest.importorskip("pyarrow.parquet")
    questions = {"id": list(range(20)), "question": [f"question {i}" for i in range(20)]}
    parquet.write_table(pytest.importorskip("pyarrow").table(questions), "questions.parquet")
    blocks = [block for page in DOCS.glob("*.md") for block in BLOCK.findall(page.read_text("utf-8"))]
    (code,) = (block for block in blocks if f"import {module}\n" in block)
    for relative in ("questions.parquet", "answers"):  # a cluster's workers were started elsewhere
        code = code.replace(f'"{relative}"', repr(str(Path(relative).absolute())))
    code = code.replace("openai/gpt-x", script.spec).replace("concurrency=(2, 8)", "concurrency=(1, 2)")
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})  # noqa: S102 - our own documents
    return Path("answers")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "s.py").write_text(SCRIPT)
    return Script(f"scripted/{tmp_path}/s.py:answer", tmp_path / "asked")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray on loopback: three CPUs to give away, no dashboard, nothing told to anybody."""
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the names of sockets in it must be short
    environment = pytest.MonkeyPatch()
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes one into the home directory
        "RAY_PLACE": place,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what keeps Ray on loopback, on Linux too
        "TEST_KEY": KEY,  # what the workers' own environment holds
    }.items():
        environment.setenv(name, value)
    ray = pytest.importorskip("ray")  # which reads them when it is imported
    ray.init(
        num_cpus=3,
        include_dashboard=False,
        _temp_dir=place,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
        configure_logging=False,
    )
    try:
        yield ray
    finally:
        ray.shutdown()
        environment.undo()
        shutil.rmtree(place, ignore_errors=True)
