"""A job's rows in processes of our own: one that dies is started again, and is given its rows again.

Such processes are for engines that would neither keep a worker of theirs nor survive its death.
"""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

from msgspec import structs

from shoal.backends.engine import START
from shoal.backends.engine_wire import LENGTH
from shoal.batch.jobs import Job
from shoal.batch.records import Record, decode
from shoal.batch.rows import Row
from shoal.errors import EngineError
from shoal.runtime.scratch import scratch_directory

_MOST_DEATHS = 4  # of processes that one batch was given to: it may be what kills them
_GRACE_SECONDS = 10.0  # that a process has to end by itself


class ProcessDied(Exception):
    """A worker process has ended, and nobody had asked it to; with its return code."""


class WorkerProcesses:
    """So many processes, each with the whole job open; each batch goes to the one that has the fewest."""

    def __init__(self, job: Job, processes: int, gpus: float) -> None:
        self._workers = [_Worker(job, _devices(number, gpus)) for number in range(processes)]
        self._under_way: set[asyncio.Task[list[Record]]] = set()

    @classmethod
    async def opened(cls, job: Job, scopes: AsyncExitStack, *, processes: int, gpus: float = 0) -> "WorkerProcesses":
        """The processes, which start with their first batches; those that need it use `gpus` GPUs each."""
        # A process that comes in place of another finds what that one had finished, if only in a directory of ours.
        place = job.run_dir or str(scopes.enter_context(scratch_directory()))
        return cls(structs.replace(job, run_dir=place), processes, gpus)

    async def run(self, rows: list[Row]) -> list[Record]:
        task = asyncio.create_task(self._run(rows))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await task

    async def _run(self, rows: list[Row]) -> list[Record]:
        codes: list[int] = []
        while len(codes) < _MOST_DEATHS:
            worker = min(self._workers, key=lambda worker: worker.batches)
            try:
                return await worker.run(rows)
            except ProcessDied as died:
                codes += died.args
        raise EngineError(
            f"{_MOST_DEATHS} worker processes have died (return codes {', '.join(map(str, codes))}), each with the "
            f"same batch of {len(rows)} rows, the first of which is {rows[0]!r:.200}"
        )

    async def stop(self) -> None:
        """End what is under way, and the processes."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._workers))


class _Worker:
    """One of the processes, whichever of its lives it is in."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self._job = job
        self._environment = environment
        self._process: _Process | None = None
        self._starting = asyncio.Lock()
        self.batches = 0

    async def run(self, rows: list[Row]) -> list[Record]:
        self.batches += 1
        try:
            async with self._starting:
                if self._process is None or self._process.ended:
                    self._process = await _Process.started(self._job, self._environment)
            return await self._process.run(rows)
        finally:
            self.batches -= 1

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()


class _Process:
    """One life of a worker process, at the other end of a socket that nobody else has."""

    def __init__(self, child: subprocess.Popen[bytes], reader: StreamReader, writer: StreamWriter) -> None:
        self.ended = False
        self._child = child
        self._writer = writer
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[list[Record]]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def started(cls, job: Job, environment: dict[str, str]) -> "_Process":
        ours, theirs = socket.socketpair()
        with theirs:
            child = _start(theirs, environment)
        process = cls(child, *await asyncio.open_connection(sock=ours))
        process._send(job)
        return process

    async def run(self, rows: list[Row]) -> list[Record]:
        number = next(self._numbers)
        answer: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._send((number, rows))
            with contextlib.suppress(ConnectionError):  # it has ended: the reader tells
                await self._writer.drain()
            return await answer
        finally:
            del self._waiting[number]

    def _send(self, message: Any) -> None:
        data = pickle.dumps(message)
        self._writer.write(LENGTH.pack(len(data)) + data)

    async def _read(self, reader: StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                number, records, error = pickle.loads(await reader.readexactly(size))
                if (answer := self._waiting.get(number)) is None or answer.done():
                    continue  # nobody waits for it any more
                if error is None:
                    answer.set_result([decode(record) for record in records])
                else:
                    answer.set_exception(error)
        self.ended = True
        self._writer.close()
        code = self._reap()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ProcessDied(code))

    def _reap(self) -> int:
        """What is left of a process that has let its socket go, and of what it started, ends now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._child.wait()

    async def stop(self) -> None:
        """Let the process end: what it has finished is on disk."""
        if not self.ended:
            self._writer.write(LENGTH.pack(0))
            await asyncio.wait([self._reading], timeout=_GRACE_SECONDS)
            if not self.ended:
                self._child.kill()
        await self._reading


def _start(theirs: socket.socket, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # In a session of its own: Ctrl-C is for the caller to act on, and what it starts can be ended with it.
    return subprocess.Popen(
        [sys.executable, "-c", START, json.dumps(sys.path), "shoal.batch.worker", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env=os.environ | environment,
        start_new_session=True,
    )


def _devices(number: int, gpus: float) -> dict[str, str]:
    """The environment that shows a process GPUs of its own, or its share of one, among those that are seen here."""
    first, seen = int(number * gpus), os.environ.get("CUDA_VISIBLE_DEVICES")
    own = range(first, first + max(1, int(gpus)))
    names = map(str, own) if seen is None else seen.split(",")[own.start : own.stop]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)} if gpus else {}
