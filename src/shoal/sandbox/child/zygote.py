"""The long-lived child: it has packages loaded, forks a process for each job, watches over it, reports its end."""

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
from time import monotonic
from typing import Any

from shoal.sandbox.child import confinement, kernel, program, wire
from shoal.sandbox.child.packages import Packages

_OPEN_FILES = 4096
_WATCH = 0.05  # seconds between looks at the size of a scratch directory that nothing else bounds
# A process that the kernel killed had used up its CPU time if it used this share of it, else there was no memory left.
# The limit is counted by ticks of the clock, what is told afterwards is exact: on a busy machine they differ by far.
_CPU_SHARE = 0.3


class _Job:
    """A job that waits, then runs. Its status socket carries the report; closed at the other side, it ends the job."""

    def __init__(self, order: wire.Order, files: list[int]) -> None:
        self.order = order
        *self.files, status = files
        self.status = socket.socket(fileno=status)
        self.pid = 0
        self.started = 0.0
        self.why = wire.BY_ITSELF
        self.scratch = ""

    def close_files(self) -> None:
        for file in self.files:
            os.close(file)
        self.files = []

    def kill(self, why: int) -> None:
        if self.why == wire.BY_ITSELF:
            self.why = why
        for kill in (os.killpg, os.kill):  # it may not have made its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)


class Zygote:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._control = socket.socket(fileno=0)
        self._packages = Packages(config["packages"], config["descriptions"])
        sys.meta_path.append(self._packages)
        self._waiting: list[_Job] = []
        self._running: dict[int, _Job] = {}  # by pid
        self._jobs: dict[int, _Job] = {}  # by status socket
        self._poll = select.poll()
        self._made = 0
        self._parent = os.getppid()
        # A signal wakes the poll: the end of a job, or of the process that this one serves.
        self._woken, writer = os.pipe()
        for end in (self._woken, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if config["tier"] != "bubblewrap" and kernel.SUPPORTED:  # bwrap does so by itself
            kernel.call("prctl", 1, int(signal.SIGTERM), 0, 0, 0)

    def serve(self) -> None:
        """Until the parent closes its side, or is gone."""
        self._poll.register(self._control.fileno(), select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._control.sendall(b"+")
        try:
            while os.getppid() == self._parent:
                for descriptor, _ in self._poll.poll(self._patience()):
                    if descriptor == self._woken:
                        os.read(self._woken, 4096)
                    elif descriptor != self._control.fileno():
                        self._cancel(self._jobs[descriptor])
                    elif not self._receive():
                        return
                self._reap()
                self._watch()
                while self._waiting and len(self._running) < self._config["slots"]:
                    self._start(self._waiting.pop(0))
        finally:
            for job in self._running.values():
                job.kill(wire.TOLD_TO)
            if self._config["tier"] != "bubblewrap":
                shutil.rmtree(self._config["scratch"], ignore_errors=True)

    def _patience(self) -> float | None:
        """Milliseconds until something has to be looked at."""
        if not self._running:
            return None
        nearest = min(job.started + job.order.wall for job in self._running.values())
        wait = max(0.0, nearest - monotonic())
        return 1000 * (wait if self._config["tier"] == "bubblewrap" else min(wait, _WATCH)) + 1

    def _receive(self) -> bool:
        data, files, _, _ = socket.recv_fds(self._control, wire.ORDER_SIZE, wire.FILES)
        if len(data) < wire.ORDER_SIZE:
            return False
        job = _Job(wire.Order.decode(data), files)
        self._jobs[job.status.fileno()] = job
        self._poll.register(job.status.fileno(), select.POLLIN)
        self._waiting.append(job)
        return True

    def _cancel(self, job: _Job) -> None:
        """Nobody waits any more, or the job has printed too much."""
        self._poll.unregister(job.status.fileno())
        if job.pid:
            job.kill(wire.TOLD_TO)
        elif job in self._waiting:
            self._waiting.remove(job)
            job.close_files()
            self._finish(job, wire.Report(-9, wire.TOLD_TO, 0.0))

    def _start(self, job: _Job) -> None:
        self._packages.have_ready(job.order.packages)
        job.scratch = self._config["scratch"]
        if self._config["tier"] != "bubblewrap":
            self._made += 1
            job.scratch = f"{job.scratch}/{self._made}"
            os.mkdir(job.scratch, 0o700)  # noqa: PTH102 - pathlib is not needed in the child
        gc.freeze()  # the collector of a child would touch, and so copy, every page
        me, job.started = os.getpid(), monotonic()
        job.pid = os.fork()
        if job.pid == 0:
            try:
                _become(job, self._config, me)
            except BaseException as error:  # noqa: BLE001 - not confined: nothing of the job may run
                os.write(2, f"not confined: {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(125)
        job.close_files()
        self._running[job.pid] = job

    def _reap(self) -> None:
        while self._running:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            job = self._running.pop(pid, None)
            if job is None:  # an orphan of an unconfined program
                continue
            if self._config["tier"] == "none":
                with contextlib.suppress(ProcessLookupError):  # what the program has left in its group
                    os.killpg(pid, signal.SIGKILL)
            seconds = monotonic() - job.started
            code = os.waitstatus_to_exitcode(status)
            if job.why == wire.BY_ITSELF and code == -signal.SIGKILL:  # by the kernel
                used = usage.ru_utime + usage.ru_stime
                job.why = wire.CPU if used > job.order.cpu * _CPU_SHARE else wire.MEMORY
            if self._config["tier"] != "bubblewrap":
                shutil.rmtree(job.scratch, ignore_errors=True)
            self._finish(job, wire.Report(code, job.why, seconds))

    def _finish(self, job: _Job, report: wire.Report) -> None:
        del self._jobs[job.status.fileno()]
        with contextlib.suppress(KeyError, FileNotFoundError):
            self._poll.unregister(job.status.fileno())
        with contextlib.suppress(OSError):  # nobody waits
            job.status.sendall(report.encode())
        job.status.close()

    def _watch(self) -> None:
        now = monotonic()
        for job in self._running.values():
            if now >= job.started + job.order.wall:
                job.kill(wire.WALL)
            elif self._config["tier"] != "bubblewrap" and _size(job.scratch) > job.order.scratch:
                job.kill(wire.SCRATCH)


def _size(directory: str) -> int:
    """Bytes on disk. A confined job makes no directories here, and what it makes it cannot remove."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                total += max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
    return total


def _become(job: _Job, config: dict[str, Any], zygote: int) -> None:
    """In the forked child: keep the job's own files, confine, run."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    source, *streams = job.files
    with open(source, "rb", closefd=False) as file:
        text = file.read()
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
    os.closerange(3, _OPEN_FILES)
    confinement.confine(job.order, config, job.scratch, zygote)
    if job.order.kind == wire.SMT:
        arguments = ("-in", "-smt2", f"-T:{max(1, int(job.order.wall))}", f"-memory:{job.order.memory >> 20}")
        os.execve(config["z3"], ["z3", *arguments], {})
    program.run(text)


def main(config: str) -> None:
    ceiling = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, ceiling), ceiling))
    Zygote(json.loads(config)).serve()
    os._exit(0)  # nothing here needs a slow farewell
