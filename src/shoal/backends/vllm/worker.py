"""vLLM's process: hands the engine what is asked and its answers back. It ends with its parent: when its input does."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import BinaryIO

import msgspec

from shoal.backends.engine_wire import (
    Answer,
    Ask,
    Count,
    Counted,
    Drop,
    Fatal,
    Measure,
    Order,
    decode_orders,
    encode,
    read_frame,
    write_frame,
)
from shoal.backends.vllm.engine import EngineDied, VllmEngine, refused
from shoal.backends.vllm.options import Setup

# vLLM is silent, tells nobody that it runs, and loads what is on this machine.
_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_WORDS = 500  # characters of a cause
_ASIDE = re.compile(r" \[type=.*? For further information visit \S+")  # pydantic's
_Frames = SimpleQueue[bytes | None]


def main(setup: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints must not get between the frames
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    frames: _Frames = SimpleQueue()
    loaded = threading.Event()
    threading.Thread(target=_receive, args=(frames, loaded), daemon=True).start()
    try:
        engine = VllmEngine(msgspec.json.decode(setup, type=Setup))
    except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is told to those who wait
        _give_up(out, f"the model does not load: {_cause(error)}")
        return
    loaded.set()
    said = os.fstat(2).st_size
    try:
        _serve(engine, frames, out)
    except Exception as error:  # noqa: BLE001 - a step that fails leaves no engine behind
        _give_up(out, f"vLLM failed: {_cause(None if isinstance(error, EngineDied) else error, said)}")
    engine.close()
    os._exit(0)


def _serve(engine: VllmEngine, frames: _Frames, out: BinaryIO) -> None:
    """Until the input ends: take in what is asked, bring the batch a token on, hand out what that brought."""
    outbox: SimpleQueue[list[Answer]] = SimpleQueue()
    threading.Thread(target=_write, args=(out, outbox), daemon=True).start()
    while True:
        answers: list[Answer] = []
        for frame in _waiting(frames, engine):
            if frame is None:
                return
            answers += (answer for order in decode_orders(frame) if (answer := _take(engine, order)) is not None)
        if engine.busy:
            answers += engine.step()
        if answers:
            outbox.put(answers)


def _waiting(frames: _Frames, engine: VllmEngine) -> Iterator[bytes | None]:
    """What has come in; where there is nothing else to do, the next that does."""
    if not engine.busy:
        yield frames.get()
    while True:
        try:
            yield frames.get_nowait()
        except Empty:
            return


def _take(engine: VllmEngine, order: Order) -> Answer | None:
    if isinstance(order, Drop):
        engine.drop(order.id)
        return None
    assert not isinstance(order, Ask | Count)
    try:
        return Counted(order.id, engine.count(order.request)) if isinstance(order, Measure) else engine.add(order)
    except EngineDied:
        raise
    except Exception as error:  # noqa: BLE001 - a fault in one call is that call's
        return refused(order.id, error)


def _receive(frames: _Frames, loaded: threading.Event) -> None:
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        frames.put(frame)
    if not loaded.is_set():
        _end()
    frames.put(None)


def _write(out: BinaryIO, outbox: SimpleQueue[list[Answer]]) -> None:
    """In a thread, so that a slow reader never holds the engine up."""
    while True:
        write_frame(out, encode(outbox.get()))


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
    if error is None:
        return "its process ended"
    return _ASIDE.sub("", " ".join(f"{type(error).__name__}: {error}".split()))[:_WORDS]
