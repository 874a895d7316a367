"""A synchronous library in a thread of its own, for which the program that started it awaits what it asks."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Ended(BaseException):
    """Nobody answers any more. It is no Exception, so that no library takes it for a failure to go on after."""


class Answering:
    """`run` work in a thread; the work `ask`s for coroutines, which are awaited where `run` is, in its task.

    Whatever ends `run`, also being cancelled, ends the thread at its next question, before `run` is left.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], Future[Any]] | None] = asyncio.Queue()
        self._lock = Lock()
        self._waiting: Future[Any] | None = None
        self._ended = False

    def ask(self, function: Callable[[], Awaitable[T]]) -> T:
        """In the thread: what awaiting `function()` gives. Ended where it failed: `run` raises what it was."""
        answer: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise Ended
            self._waiting = answer
            self._loop.call_soon_threadsafe(self._asked.put_nowait, (function, answer))
        return answer.result()

    async def run(self, work: Callable[[], object]) -> None:
        """Wait until the work is done. What it raises is raised, and so is what fails that it asks for."""
        with ThreadPoolExecutor(1, "shoal") as thread:
            done = self._loop.run_in_executor(thread, _until_ended, work)
            done.add_done_callback(self._finished)
            try:
                while (asked := await self._asked.get()) is not None:
                    function, answer = asked
                    answer.set_result(await function())
                await done
            finally:
                self._end()

    def _finished(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled():
            done.exception()  # seen, so that asyncio does not report it as lost
        self._asked.put_nowait(None)

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(Ended())


def _until_ended(work: Callable[[], object]) -> None:
    with suppress(Ended):
        work()
