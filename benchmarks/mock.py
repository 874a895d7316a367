"""The mock of the OpenAI API as a context manager: compiles it once, starts it, stops it.

with mock_server(delay_ms=50) as mock:
    ...  # talk to mock.base_url
    print(mock.stats()["requests"])
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).resolve().parent


class Mock(NamedTuple):
    """A running mock server."""

    port: int
    pid: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """Since it started: requests, choices, max_concurrent, open_connections, and requests aborted by the client."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", "/stats")
            answer: dict[str, int] = json.loads(connection.getresponse().read())
        return answer


def unavailable() -> str | None:
    """Why the mock server cannot run here, or None."""
    if sys.platform != "linux":
        return "the mock server needs Linux (epoll)"
    if not _compiler():
        return "the mock server needs a C compiler (cc, or the one named by CC)"
    return None


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def compiled(name: str, *headers: str) -> Path:
    """The program of `name`.c, compiled again only where its sources are newer."""
    sources = [_HERE / source for source in (f"{name}.c", *headers)]
    binary = _HERE / ".build" / name
    if binary.exists() and binary.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return binary
    compiler = _compiler()
    if not compiler:
        raise RuntimeError(unavailable())
    binary.parent.mkdir(exist_ok=True)
    fresh = binary.with_name(f"{name}.{os.getpid()}")  # two builders at once do not write one file
    command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(sources[0])]
    subprocess.run(command, check=True)
    fresh.replace(binary)
    return binary


@contextmanager
def mock_server(
    delay_ms: float = 0, continuous: Sequence[float] | None = None, pieces: int | None = None
) -> Iterator[Mock]:
    """A mock server on a free port of loopback.

    Every reply takes `delay_ms`, a streamed one in `pieces` (4) evenly spread over it; or `continuous` is (step ms, us
    a sequence, sequences at most, tokens a reply): a step of k sequences takes step + k x us, and sequences run
    together as in a server with continuous batching.
    It also ends with the thread that started it.
    """
    options = ["--delay-ms", str(delay_ms)] if continuous is None else ["--continuous", *map(str, continuous)]
    if pieces is not None:
        options += ["--pieces", str(pieces)]
    program = compiled("mock_server", "mock_openai.h", "mock_json.h")
    with subprocess.Popen([str(program), *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            if server.stdout is None or not (line := server.stdout.readline()):
                raise RuntimeError(f"the mock server did not start with {options}")
            yield Mock(int(line), server.pid)
        finally:
            server.terminate()
