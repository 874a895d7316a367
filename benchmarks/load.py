"""Load on a server of the OpenAI API by the client in C, and what the server's processes take for it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

from benchmarks.mock import compiled

ROOT = Path(__file__).resolve().parent.parent
NUMBER = "########"  # the load client writes each request's number there


def load(
    port: int, body: Mapping[str, Any], connections: int, seconds: float, expect: str, rate: float | None = None
) -> dict[str, Any]:
    """What load_client.c saw: requests, errors, wall_s, p50_ms, p99_ms, first_p50_ms, and the first error.

    `connections` ask again as soon as they are answered, or `rate` requests a second are due. Replies must hold the
    text `expect`.
    """
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(body, file)
        file.flush()
        options = {"port": port, "body": file.name, "connections": connections, "seconds": seconds, "expect": expect}
        if rate is not None:
            options["rate"] = rate
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [str(compiled("load_client")), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 180)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def processes(pid: int) -> list[int]:
    """A process and all it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(found for child in children for found in processes(int(child)))]


def cpu_s(pid: int) -> float:
    """User and system seconds so far of a process and all it started: its CPU-time clock, which counts in ns."""
    return sum(time.clock_gettime((~each << 3) | 2) for each in processes(pid))


def status_kib(pid: int, name: str) -> int:
    """A line of /proc/PID/status that is in kB (VmHWM, RssAnon, ...), over a process and all it started."""
    total = 0
    for each in processes(pid):
        lines = Path(f"/proc/{each}/status").read_text().splitlines()
        total += next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
    return total


@contextmanager
def shoal_serve(base_url: str, *options: str) -> Iterator[tuple[int, int]]:
    """The port and process id of `shoal serve` in front of `base_url`, without a line for each request."""
    command = [sys.executable, "-m", "shoal", "serve", "-m", "openai/m", "--host", "127.0.0.1", "--port", "0"]
    with TemporaryDirectory() as folder:  # no shoal.toml and no cache of the user's
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SHOAL_", "XDG_"))}
        environment |= {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "x", "HOME": folder}
        log = Path(folder, "log")
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [*command, "--quiet", *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=folder,
            ) as server,
        ):
            try:
                yield _port(server, log), server.pid
            finally:
                server.terminate()


def _port(server: subprocess.Popen[str], log: Path) -> int:
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise RuntimeError(f"shoal serve did not start: {log.read_text()[-500:]}")
