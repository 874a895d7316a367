"""One job as its caller sees it: sent to the zygote, its output collected, gone when the caller goes away."""

import asyncio
import contextlib
import os
import socket
import tempfile
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from typing import NamedTuple

from shoal.sandbox.child.wire import FILES, REPORT_SIZE, Order, Report
from shoal.sandbox.keeper import Zygote

_CHUNK = 1 << 16
_LINGER = 1.0  # seconds for output that is held open by what an unconfined program has left behind


class ZygoteDied(Exception):
    """The job cannot be told of any more: it died with the zygote."""


class Ended(NamedTuple):
    report: Report
    stdout: bytes
    stderr: bytes
    cut: bool  # it printed more than it may


class _Output:
    """Both output streams under one limit, read as they come."""

    def __init__(self, loop: AbstractEventLoop, limit: int, full: Callable[[], None]) -> None:
        self._loop, self._left, self._full = loop, limit, full
        self.cut = False

    def collect(self, file: int) -> tuple[bytearray, "Future[None]"]:
        data, ended = bytearray(), self._loop.create_future()
        self._loop.add_reader(file, self._read, file, data, ended)
        return data, ended

    def _read(self, file: int, data: bytearray, ended: "Future[None]") -> None:
        try:
            piece = os.read(file, _CHUNK)
        except BlockingIOError:
            return
        if not piece:
            self._loop.remove_reader(file)
            if not ended.done():
                ended.set_result(None)
            return
        data += piece[: self._left]
        if len(piece) > self._left and not self.cut:
            self.cut = True
            self._full()
        self._left = max(0, self._left - len(piece))


async def run(zygote: Zygote, order: Order, program: bytes, stdin: bytes, limit: int) -> Ended:
    """Run a job to its end. Cancelling ends it at once."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as ours:
        status, outputs = _submit(zygote, order, program, stdin, ours)
        output = _Output(loop, limit, lambda: status.shutdown(socket.SHUT_WR))
        told: Future[Report] = loop.create_future()
        loop.add_reader(status.fileno(), _hear, status, told)
        ours.callback(loop.remove_reader, status.fileno())
        streams = []
        for file in outputs:
            streams.append(output.collect(file))
            ours.callback(loop.remove_reader, file)
        report = await told
        await asyncio.wait([ended for _, ended in streams], timeout=_LINGER)
        return Ended(report, bytes(streams[0][0]), bytes(streams[1][0]), output.cut)


def _hear(status: socket.socket, told: "Future[Report]") -> None:
    if told.done():
        return
    try:
        data = status.recv(REPORT_SIZE)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    if len(data) == REPORT_SIZE:
        told.set_result(Report.decode(data))
    else:
        told.set_exception(ZygoteDied())


def _submit(
    zygote: Zygote, order: Order, program: bytes, stdin: bytes, ours: contextlib.ExitStack
) -> tuple[socket.socket, list[int]]:
    """Send a job's files to the zygote; our ends of them, which `ours` closes."""
    with contextlib.ExitStack() as theirs:
        files = []
        for content in (program, stdin):
            files.append(_sealed(content))
            theirs.callback(os.close, files[-1])
        outputs = []
        for _ in range(2):
            reader, writer = os.pipe()
            ours.callback(os.close, reader)
            theirs.callback(os.close, writer)
            os.set_blocking(reader, False)
            outputs.append(reader)
            files.append(writer)
        status, other = socket.socketpair()
        ours.callback(_hang_up, status, os.getpid())
        theirs.enter_context(other)
        status.setblocking(False)
        files.append(other.fileno())
        assert len(files) == FILES
        try:
            zygote.submit(order, files)
        except OSError as error:
            raise ZygoteDied from error
    return status, outputs


def _hang_up(status: socket.socket, owner: int) -> None:
    """Close it, also where a fork of this process holds it open; in such a fork, leave it to its owner."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            status.shutdown(socket.SHUT_RDWR)
    status.close()


def _sealed(content: bytes) -> int:
    """A file in memory that nobody can change, at its beginning."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.seek(0)
            return os.dup(file.fileno())
    import fcntl  # not on every system

    number = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(number, "wb", closefd=False) as file:
        file.write(content)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
    os.lseek(number, 0, os.SEEK_SET)
    return number
