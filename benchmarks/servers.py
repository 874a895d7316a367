"""HTTP servers under clients that leave, send nonsense, are slow or many: what each does, and its CPU a request.

python -m benchmarks.servers [NAME ...]    one JSON line for each server and fault; about 6 minutes for all

The servers are installed into an environment of their own and run as their documentation says, with one worker, uvloop
and no access log. `ok` is whether the server does what shoal's promises to do: see docs/server.md.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import server_faults as faults
from benchmarks.peers import ROOT, Peer, Unavailable, python_of

_SCRIPTS = Path(__file__).resolve().parent / "server_scripts"
_PEER = Peer("", "servers", ("aiohttp", "granian", "h11", "httptools", "hypercorn", "uvicorn", "uvloop"))
_UVICORN = "-m uvicorn asgi:app --port {port} --loop uvloop --no-access-log --log-level error"
_GRANIAN = "-m granian --port {port} --loop uvloop --log-level error"
COMMANDS = {
    "shoal": "aiohttp_web.py {port} shoal",
    "aiohttp.web": "aiohttp_web.py {port}",
    "uvicorn, httptools": f"{_UVICORN} --http httptools",
    "uvicorn, h11": f"{_UVICORN} --http h11",
    "hypercorn": "-m hypercorn asgi:app --bind 127.0.0.1:{port} --worker-class uvloop",
    "granian, ASGI": f"{_GRANIAN} --interface asgi asgi:app",
    "granian, RSGI": f"{_GRANIAN} --interface rsgi rsgi:app",
}

Check = Callable[[faults.Server], Awaitable[faults.Seen]]
QUICK: dict[str, Check] = {
    "leaves while queued": partial(faults.leaves, path="/queued"),
    "leaves before the first token": partial(faults.leaves, path="/first_token"),
    "leaves in mid-stream": partial(faults.leaves, path="/mid_stream"),
    "leaves before a whole answer": partial(faults.leaves, path="/whole"),
    "body of 100 MB": faults.sends_100_mb,
    **{name: partial(faults.sends_malformed, data=data) for name, data in faults.MALFORMED.items()},
    "1,000 pipelined requests": faults.pipelines,
    "5,000 connections": faults.crowds,
}
SLOW: dict[str, Check] = {
    "headers a byte a second": partial(faults.stays, first=b"GET / HTTP/1.1\r\nX-A: ", limit_s=10, drip=b"a"),
    "body a byte a second": partial(
        faults.stays, first=faults.POST + b"Content-Length: 9999\r\n\r\n", limit_s=30, drip=b"a"
    ),
    "connects and sends nothing": partial(faults.stays, first=b"", limit_s=10),
    "idle after an answer": partial(faults.stays, first=faults.request("/state"), limit_s=75),
    "200 that read nothing": faults.reads_nothing,
    "SIGTERM": partial(faults.is_stopped, lasting=None),
    "SIGTERM with a slow body open": partial(faults.is_stopped, lasting=faults.slow_body),
}


@contextmanager
def running(name: str) -> Iterator[faults.Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = sys.executable if name == "shoal" else str(python_of(_PEER))
    command = [python, *COMMANDS[name].format(port=port).split()]
    path = os.pathsep.join([str(_SCRIPTS), *([str(ROOT / "src")] if name == "shoal" else [])])
    process = subprocess.Popen(
        command,
        cwd=_SCRIPTS,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_listening(process, port)
        yield faults.Server(name, port, process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise Unavailable(f"did not listen: {process.args!r}")


async def _row(server: faults.Server, fault: str, check: Check) -> None:
    row: dict[str, Any] = {"benchmark": "servers", "server": server.name, "fault": fault}
    try:
        async with asyncio.timeout(2 * faults.PATIENCE_S):
            row["ok"], row["what"] = await check(server)
    except Exception as error:
        row["ok"], row["what"] = False, f"could not be told: {type(error).__name__}: {error}"
    print(json.dumps(row), flush=True)


def _quick(name: str) -> None:
    with running(name) as server:
        cpu_us = asyncio.run(faults.cpu_us(server))
        print(json.dumps({"benchmark": "servers", "server": name, "cpu_us_per_request": round(cpu_us)}), flush=True)
        for fault, check in QUICK.items():
            asyncio.run(_row(server, fault, check))


async def _slow(names: list[str]) -> None:
    """All at once, for they wait, each on a server of its own, so that what one holds is not another's."""
    with ExitStack() as running_servers:
        rows = [
            _row(running_servers.enter_context(running(name)), fault, check)
            for name in names
            for fault, check in SLOW.items()
        ]
        await asyncio.gather(*rows)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended too
    names = sys.argv[1:] or list(COMMANDS)
    for name in names:
        _quick(name)
    asyncio.run(_slow(names))


if __name__ == "__main__":
    main()
