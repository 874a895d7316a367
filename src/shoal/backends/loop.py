"""The event loop that programs run on, and the one synchronous door to it."""

import asyncio
import contextvars
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# A large run keeps hundreds of thousands of live objects; collecting every 700 new ones costs a third of its CPU.
_GC_THRESHOLD = 50_000


def run(program: Awaitable[T]) -> T:
    """Run a coroutine (or a Program) to its end and return its result.

    Works in scripts and, in a thread of its own, where a loop is already running (Jupyter). Ctrl-C cancels the program,
    lets it clean up, and raises KeyboardInterrupt.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        door = _run
    else:
        door = _run_in_thread
    return door(program)  # out here, so that what it raises is not told as having come of the question


def _run(program: Awaitable[T]) -> T:
    async def main() -> T:
        return await program

    with _seldom_collected(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _run_in_thread(program: Awaitable[T]) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []
    context = contextvars.copy_context()

    def main() -> None:
        try:
            outcome.append(context.run(_run, program))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            failure.append(error)

    thread = threading.Thread(target=main, name="shoal-run")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _loop_factory() -> Callable[[], Any] | None:
    """uvloop where it is installed: a third less CPU a call than asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextmanager
def _seldom_collected() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.set_threshold(max(_GC_THRESHOLD, thresholds[0]), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
