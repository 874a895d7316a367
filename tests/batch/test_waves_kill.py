"""kill -9 at every step of a wave: the same command goes on, and every draw is paid once."""

import asyncio
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.backends.faulty_batches import FaultyBatches, asked, paid
from tests.batch.waving import draws_paid, same, serving
from tests.scripting import run

SCRIPT = """
import sys

import shoal
from shoal.backends.waves import Pace, WaveSettings

@shoal.program
async def two_steps(prompt):
    first = await shoal.llm.generate_text(f"begin {prompt}")
    seconds = await shoal.llm.generate_texts(f"go on from {first}", 3)
    return " ".join(map(str, seconds))

model = shoal.open_model("lab/m", base_url=sys.argv[1], api_key="key", cache=None)
pace = Pace(alone=0.02, company=0.05, poll=0.005, longest=0.02, pause=0.005, grace=0.05)
items = [f"Q{i}" for i in range(40)]
records = shoal.map(two_steps, items, model=model, run_dir="run", batch_api=WaveSettings(pace=pace))
assert all(record.error is None for record in records), records
assert sum(record.usage.calls for record in records) == 160, [record.usage.calls for record in records]
"""
LIST, UPLOAD, CREATE = "GET /v1/batches", "POST /v1/files", "POST /v1/batches"
LOOK, CONTENT, DELETE = "GET /v1/batches/{id}", "GET /v1/files/{id}/content", "DELETE /v1/files/{id}"


def log() -> BinaryIO:
    Path("program.py").write_text(SCRIPT)
    return Path("log").open("ab")


def logged() -> str:
    return Path("log").read_text()


def run_directory() -> tuple[int, list[str]]:
    """The lines of the output, and the files of waves that are left."""
    return len(Path("run/output.jsonl").read_text().splitlines()), [p.name for p in Path("run").glob("shoal-wave-*")]


async def started(server: FaultyBatches, most_bytes: int | None = None) -> asyncio.subprocess.Process:
    """The program in a process of its own. Its files may not grow beyond `most_bytes`: to it a full disk."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    measured = "COVERAGE_PROCESS"  # whose file would not find room either
    known = {name: value for name, value in os.environ.items() if most_bytes is None or not name.startswith(measured)}
    with log() as file:
        return await asyncio.create_subprocess_exec(
            sys.executable, "program.py", server.base_url, stderr=file, preexec_fn=limit, env=known
        )


async def killed(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def finished(server: FaultyBatches) -> None:
    """Run to the end; then every draw is paid once, nothing is left with the provider, and the output is whole."""
    process = await started(server)
    assert await process.wait() == 0, logged()
    firsts = {question: n for question, n in draws_paid().items() if question.startswith("begin")}
    assert firsts == {f"begin Q{i}": 1 for i in range(40)}
    seconds = {question: n for question, n in draws_paid().items() if question.startswith("go on")}
    assert len(seconds) == 40
    assert set(seconds.values()) == {3}
    assert run_directory() == (40, [])
    assert not server.files


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("route", "count"),
    [
        (LIST, 1),
        *((route, count) for route in (UPLOAD, CREATE, CONTENT) for count in (1, 2)),
        *((LOOK, count) for count in (1, 3, 4, 6)),
        *((DELETE, count) for count in (1, 2, 3)),
    ],
)
def test_killed_when_the_provider_has_done_it_and_before_it_is_known(route: str, count: int) -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.disturb(route, *[""] * (count - 1), "hold-after")
            process = await started(server)
            await server.until(route, count)
            await killed(process)
            server.let_go()
            await finished(server)
            assert len({each.batch for each in paid(Path("provider"))}) == len(server.batches) == 2

    run(main())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        async with serving(same) as server:
            for _ in range(8):
                process = await started(server)
                route = chance.choice([LIST, UPLOAD, CREATE, LOOK, LOOK, CONTENT])
                came = sum(each.route == route for each in asked(Path("provider")))
                events = asyncio.create_task(process.wait()), asyncio.create_task(server.until(route, came + 1))
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
                for _ in range(chance.randrange(3)):  # a little later, wherever that finds it
                    await asyncio.sleep(0)
                if process.returncode is None:
                    await killed(process)
                await events[0]
                events[1].cancel()
                await asyncio.wait(events)
            await finished(server)

    run(main())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("most_bytes", [40_000, 90_000, 200_000])
def test_a_full_disk_stops_the_run_by_name_and_nothing_is_paid_twice(most_bytes: int) -> None:
    async def main() -> None:
        async with serving(same) as server:
            process = await started(server, most_bytes)
            assert await process.wait() == 1
            assert "StoreError: run/" in logged().splitlines()[-1]
            await finished(server)

    run(main())
