"""vLLM's process: hands the engine what is asked and its answers back. It ends with its parent: when its input does."""

import asyncio
import os
import re
import signal
import sys
import threading
from asyncio import AbstractEventLoop
from queue import SimpleQueue
from typing import BinaryIO

import msgspec

from shoal.backends.engine_wire import (
    Ask,
    Count,
    Counted,
    Draw,
    Drawn,
    Drop,
    Fatal,
    Measure,
    Order,
    Piece,
    Refused,
    Reply,
    decode_orders,
    encode,
    read_frame,
    write_frame,
)
from shoal.backends.vllm_engine import EngineDied, VllmEngine
from shoal.backends.vllm_options import Setup
from shoal.errors import BadRequest, ContextLengthExceeded, EngineError

# vLLM is silent, tells nobody that it runs, and loads what is on this machine.
_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_WORDS = 500  # characters of a cause


class _Outbox:
    """Replies on their way, written by a thread so that a slow reader never holds the engine up."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._replies: list[Reply] = []
        self._frames: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def put(self, reply: Reply) -> None:
        """What one turn of the event loop answers is one frame."""
        self._replies.append(reply)
        if len(self._replies) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        self._frames.put(encode(replies))

    def _write(self) -> None:
        while True:
            write_frame(self._out, self._frames.get())


class _Desk:
    """The engine, and a task for each call under way."""

    def __init__(self, engine: VllmEngine, outbox: _Outbox, dead: asyncio.Event) -> None:
        self._engine = engine
        self._outbox = outbox
        self._dead = dead
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, order: Order) -> None:
        if isinstance(order, Drop):
            if (task := self._tasks.get(order.id)) is not None:
                task.cancel()
            return
        assert not isinstance(order, Ask | Count)
        task = asyncio.get_running_loop().create_task(self._answer(order))
        self._tasks[order.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(order.id))

    async def _answer(self, order: Draw | Measure) -> None:
        try:
            self._outbox.put(await self._reply(order))
        except EngineDied:
            self._dead.set()
        except ContextLengthExceeded as error:
            self._outbox.put(Refused(order.id, "context", str(error)))
        except BadRequest as error:
            self._outbox.put(Refused(order.id, "request", str(error)))
        except EngineError as error:
            self._outbox.put(Refused(order.id, "engine", str(error)))
        except Exception as error:  # noqa: BLE001 - a fault in one call is that call's
            self._outbox.put(Refused(order.id, "engine", f"{type(error).__name__}: {error}"))

    async def _reply(self, order: Draw | Measure) -> Reply:
        if isinstance(order, Measure):
            return Counted(order.id, await self._engine.count(order.request))
        if not order.stream:
            return Drawn(order.id, await self._engine.draw(order))
        async for piece in self._engine.stream(order):
            if not isinstance(piece, str):
                return Drawn(order.id, [piece])
            self._outbox.put(Piece(order.id, piece))
        raise EngineError("the engine gave no whole answer")


def main(setup: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints must not get between the frames
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(msgspec.json.decode(setup, type=Setup), out))


def _loop() -> AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _serve(setup: Setup, out: BinaryIO) -> None:
    frames: asyncio.Queue[bytes | None] = asyncio.Queue()
    loaded = threading.Event()
    threading.Thread(target=_receive, args=(asyncio.get_running_loop(), frames, loaded), daemon=True).start()
    try:
        engine = VllmEngine(setup)
    except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is told to those who wait
        _give_up(out, f"the model does not load: {_cause(error)}")
        return
    loaded.set()
    before = os.fstat(2).st_size
    dead = asyncio.Event()
    desk = _Desk(engine, _Outbox(out), dead)
    working = asyncio.create_task(_work(desk, frames))
    dying = asyncio.create_task(dead.wait())
    await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
    if dead.is_set():
        _give_up(out, f"vLLM failed: {_cause(None, before)}")
    await asyncio.to_thread(engine.close)
    os._exit(0)


async def _work(desk: _Desk, frames: "asyncio.Queue[bytes | None]") -> None:
    while (frame := await frames.get()) is not None:
        for order in decode_orders(frame):
            desk.take(order)


def _receive(loop: AbstractEventLoop, frames: "asyncio.Queue[bytes | None]", loaded: threading.Event) -> None:
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        loop.call_soon_threadsafe(frames.put_nowait, frame)
    if not loaded.is_set():
        _end()
    loop.call_soon_threadsafe(frames.put_nowait, None)


def _give_up(out: BinaryIO, message: str) -> None:
    write_frame(out, encode([Fatal(message)]))
    _end()


def _end() -> None:
    """End this process and those that the engine has started: the session is theirs alone."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _cause(error: Exception | None, since: int = 0) -> str:
    """What went wrong first, from what the engine's processes said: the error that reaches this one is the last."""
    said = os.pread(2, os.fstat(2).st_size, since).decode("utf-8", "replace")
    found = re.findall(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): \S.*)$", said, re.MULTILINE)
    if found:
        return str(found[0])[:_WORDS].strip()
    return " ".join(f"{type(error).__name__}: {error}".split())[:_WORDS] if error is not None else "its process ended"
