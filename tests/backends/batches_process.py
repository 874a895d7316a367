"""The server of `faulty_batches` in a process of its own, that can be killed at any moment and started again."""

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
from tests.backends.batch_orders import Body
from tests.backends.faulty_batches import FaultyBatches

_ROOT = Path(__file__).parents[2]


class BatchesProcess:
    """The server in a process of its own. `reply` names a function, `package.module:function`."""

    def __init__(self, directory: Path, reply: str = "tests.backends.batch_orders:echo", key: str = "key") -> None:
        self.directory, self.key = directory, key
        self._reply = reply
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start, or start again on the same port and state. Returns once it listens."""
        arguments = [str(self.directory.absolute()), self._reply, self.key, str(self.port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.batches_process", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def died(self) -> int:
        """Wait for its end (`die`, `die-after`); its exit status."""
        assert self._process is not None
        assert self._process.stdout is not None
        status = self._process.wait(30)
        self._process.stdout.close()
        self._process = None
        return status

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self.died()

    def do(self, name: str, *args: Any) -> list[Body]:
        """`do("order", Order(hold=True))`, `do("disturb", route, fault)`, `do("until", route, count)`,
        `do("release")`, `do("let_go")`, `do("key", "other")`; the batches then."""
        said = msgspec.json.encode({"do": name, "args": args})
        with urlopen(Request(f"http://127.0.0.1:{self.port}/control", said), timeout=60) as reply:
            batches: list[Body] = json.loads(reply.read())
            return batches


async def _main(directory: str, reply: str, key: str, port: str) -> None:
    module, _, function = reply.partition(":")
    server = FaultyBatches(Path(directory), getattr(importlib.import_module(module), function), key)
    await server.start(int(port))
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
