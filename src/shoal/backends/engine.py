"""An engine's process as its caller sees it: calls go in, replies come back to the event loop that asked."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator
from queue import SimpleQueue
from typing import IO, Any

from msgspec import structs

from shoal.backends.engine_wire import (
    Answer,
    Call,
    Drop,
    Fatal,
    Order,
    Piece,
    Refused,
    Reply,
    decode_replies,
    encode,
    read_frame,
    write_frame,
)

# The child finds shoal where this process did; its __main__ is never imported again.
START = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
importlib.import_module(sys.argv[2]).main(*sys.argv[3:])
"""


class _Waiting:
    __slots__ = ("loop", "replies")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.replies: asyncio.Queue[Answer] = asyncio.Queue()


class _Process:
    """One life of the engine's process, with a thread that writes to it and one that reads from it."""

    def __init__(self, worker: str, arguments: list[str], grace: float) -> None:
        self.grace = grace
        self.calls: dict[int, _Waiting] = {}
        self.orders: dict[AbstractEventLoop, list[Order]] = {}
        self.ended = False
        self.loaded = False  # once it has answered anything
        self.closing = False
        self.outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        command = [sys.executable, "-c", START, json.dumps(sys.path), worker, *arguments]
        # In a session of its own: Ctrl-C is for the caller to act on, and what it starts can be ended with it.
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True
        )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def send(self, order: Order) -> None:
        """Send what the event loop has to send in this turn as one frame, so that it reaches the engine together."""
        loop = asyncio.get_running_loop()
        orders = self.orders.setdefault(loop, [])
        orders.append(order)
        if len(orders) == 1:
            loop.call_soon(self.flush, loop)

    def flush(self, loop: AbstractEventLoop) -> None:
        if orders := self.orders.pop(loop, None):
            self.outbox.put(encode(orders))

    def _write(self) -> None:
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: the reader tells
            while (frame := self.outbox.get()) is not None:
                write_frame(self.child.stdin, frame)
            self.child.stdin.close()

    def _read(self) -> None:
        assert self.child.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while (frame := read_frame(self.child.stdout)) is not None:
                self._hand_out(decode_replies(frame))
        self.kill()
        self.ended = True
        self._hand_out(self._all_refused(self._last_words()))

    def _hand_out(self, replies: list[Reply]) -> None:
        """Wake each event loop once for all its replies."""
        if replies and isinstance(replies[0], Fatal):
            self.ended = True
            replies = self._all_refused(replies[0].message)
        elif not self.ended:
            self.loaded = True
        mail: dict[AbstractEventLoop, list[tuple[_Waiting, Answer]]] = {}
        for reply in replies:
            if not isinstance(reply, Fatal) and (call := self.calls.get(reply.id)) is not None:
                mail.setdefault(call.loop, []).append((call, reply))
        for loop, letters in mail.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_deliver, letters)

    def _all_refused(self, message: str) -> list[Reply]:
        kind = "ended" if self.loaded and not self.closing else "engine"  # what does not load will not the next time
        return [Refused(id, kind, message) for id in list(self.calls)]

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"the engine's process ended ({self.child.returncode})" + (f": {lines[-1][:300]}" if lines else "")

    def kill(self) -> None:
        """End the process, and with it what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def end(self) -> None:
        self.closing = True
        self.outbox.put(None)  # its input ends, and with it the process
        try:
            self.child.wait(self.grace if self.loaded else 0.0)  # while it loads it may be deaf
        except subprocess.TimeoutExpired:
            self.kill()
        for thread in self._threads:
            if thread is not threading.current_thread():  # a collector may run in any
                thread.join()
        for file in (self.child.stdin, self.child.stdout, self.errors):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


def _deliver(letters: list[tuple[_Waiting, Answer]]) -> None:
    for call, reply in letters:
        call.replies.put_nowait(reply)


class Engine:
    """Runs calls in a process of its own, which starts with the first and ends with `close`, this object or Python.

    `worker` is the module whose `main` the process runs with the arguments, `grace` the seconds it has to end.
    """

    def __init__(self, *arguments: str, worker: str = "shoal.backends.engine_worker", grace: float = 1.0) -> None:
        self._arguments = list(arguments)
        self._worker = worker
        self._grace = grace
        self._process: _Process | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._lock = threading.Lock()
        self._ids = itertools.count(1)

    async def run(self, asked: Call) -> AsyncGenerator[Answer, None]:
        """The replies to a call, only the last of them no Piece. Leaving early takes it out of the batch."""
        process = self._running()
        call, asked = _Waiting(), structs.replace(asked, id=next(self._ids))
        process.calls[asked.id] = call
        process.send(asked)
        if process.ended:
            call.replies.put_nowait(Refused(asked.id, "engine", "the engine's process ended"))
        finished = False
        try:
            while not finished:
                reply = await call.replies.get()
                finished = not isinstance(reply, Piece)
                yield reply
        finally:
            del process.calls[asked.id]
            if not finished:
                process.send(Drop(asked.id))
                process.flush(call.loop)  # the loop may not turn again

    def close(self) -> None:
        """End the process; the next call starts another. Calls under way get an error."""
        with self._lock:
            process, self._process = self._process, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if process is not None:
            process.end()

    def _running(self) -> _Process:
        with self._lock:
            if self._process is None or self._process.ended:
                if self._finalizer is not None:
                    self._finalizer()
                self._process = _Process(self._worker, self._arguments, self._grace)
                self._finalizer = weakref.finalize(self, self._process.end)
            return self._process
