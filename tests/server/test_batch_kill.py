"""kill -9 of a server at any moment, or a disk that fills: every line of a batch is answered once, none is lost."""

import asyncio
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.scripting import run
from tests.server.batching import ENDED, begin, line, results, text_of, until, upload
from tests.server.serving import Client

LINES, KILLS = 150, 10
SCRIPT = """
import asyncio, os

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
few = asyncio.Semaphore(4)

async def answer(request):
    async with few:
        os.write(asked, f"{request.messages[-1].text.split()[0]} {request.sample}\\n".encode())
        await asyncio.sleep(0.001)
    return f"The answer is {request.messages[-1].text.split()[0]}." + " and so on" * 50
"""


def started(command: list[str], limit: Callable[[], None]) -> "subprocess.Popen[str]":
    with Path("log").open("a") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=limit)


def logged() -> str:
    return Path("log").read_text()


@asynccontextmanager
async def server(most_bytes: int | None = None) -> AsyncIterator[tuple[Client, "subprocess.Popen[str]"]]:
    """`shoal serve` in a process of its own, killed at the end. Its files may not grow beyond `most_bytes`."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "shoal", "serve", "-m", "scripted/s.py:answer", "--port", "0", "--quiet"]
    process = started(command, limit)
    assert process.stdout is not None
    try:
        lines = await asyncio.to_thread(lambda: [process.stdout.readline() for _ in range(2)])  # type: ignore[union-attr]
        url = lines[1].split()[-1].removesuffix("/v1")
        async with aiohttp.ClientSession() as session:
            yield Client(url, session), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def asked() -> list[str]:
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


def finished() -> set[int]:
    """The numbers of the lines that are in the journal."""
    numbers: set[int] = set()
    for path in Path("state/shoal/server/batches").glob("*.sqlite"):
        reader = sqlite3.connect(path)
        try:
            numbers |= {number - 1 for (number,) in reader.execute("SELECT number FROM row")}
        except sqlite3.OperationalError:  # killed before the tables were made
            pass
        finally:
            reader.close()
    return numbers


async def killed_when(process: "subprocess.Popen[str]", due: Callable[[], bool]) -> None:
    while not due():
        await asyncio.sleep(0)
    process.send_signal(signal.SIGKILL)
    process.wait()


async def answered(session: aiohttp.ClientSession, url: str) -> None:
    """Returns when all lines of the batch are answered, or the server is gone."""
    with suppress(aiohttp.ClientError):
        while True:
            async with session.get(url) as response:
                if (await response.json())["status"] in ("finalizing", *ENDED):
                    return


@pytest.mark.timeout(300)
def test_kill_at_many_moments() -> None:
    Path("s.py").write_text(SCRIPT)
    chance = random.Random(11)
    model = "scripted/s.py:answer"
    lines = [line(f"r{i}", str(i), f"self_consistency(n=3)@{model}" if i % 3 else model) for i in range(LINES)]
    again: list[str] = []
    found: list[int] = []

    async def main() -> tuple[Any, list[Any], bytes]:
        async with server() as (client, process):
            batch = await begin(client, *lines)
            await killed_when(process, lambda: True)
        for kill in range(KILLS):
            done, before = finished(), len(asked())
            found.append(len(done))
            more = chance.choice([0, 1, *range(2, 40)]) if kill < KILLS - 1 else 10**9
            async with server() as (client, process):
                path = client.url + f"/v1/batches/{batch['id']}"
                over = asyncio.ensure_future(answered(client.session, path))
                due = before + more
                await killed_when(process, lambda due=due, over=over: len(asked()) >= due or over.done())
                await over
            again.extend(text for text in asked()[before:] if int(text.split()[0]) in done)
        async with server() as (client, _):
            ended = await until(client, batch["id"], *ENDED)
            output, errors = await results(client, ended)
            assert errors == []
        calls = len(asked())
        async with server() as (client, _):
            assert await until(client, batch["id"], *ENDED) == ended
            assert (await results(client, ended))[0] == output
            assert len(asked()) == calls
        return ended, output

    ended, output = run(main())
    assert ended["status"] == "completed"
    assert ended["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert [item["custom_id"] for item in output] == [f"r{i}" for i in range(LINES)]
    assert all(text_of(item).startswith(f"The answer is {i}.") for i, item in enumerate(output))
    assert sum(0 < number < LINES for number in found) >= KILLS // 2  # most kills were amid the work
    assert again == []  # nothing that was finished is paid for twice
    draws = Counter(asked())
    assert len(draws) == LINES // 3 + 3 * (LINES - LINES // 3)
    assert list(Path("state/shoal/server/batches").iterdir()) == []
    assert len(list(Path("state/shoal/server/files").iterdir())) == 2


def test_a_full_disk_stops_the_batch_and_not_the_server_and_loses_nothing() -> None:
    Path("s.py").write_text(SCRIPT)
    model = "scripted/s.py:answer"
    lines = [line(f"r{i}", f"{i} " + "y" * 1000, model) for i in range(200)]

    async def full() -> str:
        async with server(most_bytes=300_000) as (client, _):
            batch = await begin(client, *lines)
            while "nothing finished is lost" not in logged():
                await asyncio.sleep(0)
            large = await upload(client, b"x" * 300_001)
            assert (large.status, large.error["code"]) == (507, "storage_unavailable")
            assert (await upload(client, b"x")).status == 200
            assert (await client.chat(model, "0 live")).status == 200
            assert (await until(client, batch["id"], "in_progress"))["request_counts"]["completed"] > 0
            return str(batch["id"])

    async def room(id_: str) -> tuple[Any, list[Any]]:
        async with server() as (client, _):
            batch = await until(client, id_, *ENDED)
            return batch, (await results(client, batch))[0]

    id_ = run(full())
    done, before = finished(), len(asked())
    assert done
    assert logged().count("waits 30 s") == 1
    assert "Traceback" not in logged()
    batch, output = run(room(id_))
    assert batch["request_counts"] == {"total": 200, "completed": 200, "failed": 0}
    assert [item["custom_id"] for item in output] == [f"r{i}" for i in range(200)]
    assert {int(text.split()[0]) for text in asked()[before:]} == set(range(200)) - done
