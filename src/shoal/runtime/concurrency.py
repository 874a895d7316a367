"""Running things at once, structured: nothing outlives its caller, and one failure is raised as itself."""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def gather(*awaitables: Awaitable[T]) -> list[T]:
    """Run all at once; the results in order.

    The first failure cancels the others, waits until they are gone and is raised itself, not wrapped in a group.
    """
    if not awaitables:
        return []
    if len(awaitables) == 1:
        return [await awaitables[0]]
    tasks = [asyncio.ensure_future(a) for a in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
        return [task.result() for task in tasks]
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Future[T]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen, so that asyncio does not report it as lost


async def take_while(
    function: Callable[[int], Coroutine[Any, Any, T]], wanted: Callable[[Sequence[T]], int]
) -> tuple[list[T], list[T]]:
    """Run `function(0)`, `function(1)`... at once, ahead of the results, until the first of them are enough.

    `wanted(results)` sees the results without a gap from number 0 on, and says how many are worth having; no more than
    are there ends it, and what still runs is cancelled. Where `wanted` ends as soon as some first part of what it sees
    is enough, whatever follows, what is taken does not depend on what finished first. Returns the results taken, and
    the others that had finished by then. A failure is raised when its turn comes; one beyond the end is not seen.
    """
    tasks: list[asyncio.Task[T]] = []
    results: list[T] = []
    try:
        while (goal := wanted(results)) > len(results):
            tasks += [asyncio.create_task(function(i)) for i in range(len(tasks), goal)]
            await asyncio.wait([tasks[len(results)]])
            results.append(tasks[len(results)].result())
            while len(results) < len(tasks) and _succeeded(tasks[len(results)]):
                results.append(tasks[len(results)].result())
    finally:
        await _cancel(tasks)
    beyond = [task.result() for task in tasks[len(results) :] if _succeeded(task)]
    return results[:goal], results[goal:] + beyond


def _succeeded(task: asyncio.Future[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def map_bounded(
    function: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T] | AsyncIterable[T], limit: int
) -> AsyncIterator[R]:
    """Apply `function` to a stream of items, at most `limit` at once; results as they finish.

    Items are taken only when there is room, so a source of any length is held in bounded memory.
    """
    work = _Work(function, items)
    try:
        while work.fill(limit) or work.running or work.ended:
            await work.news.wait()
            work.news.clear()
            while work.ended:
                yield work.ended.popleft().result()
    finally:
        left: list[asyncio.Task[Any]] = [*work.running, *work.ended, *work.pulling]
        await _cancel(left)
        if isinstance(work.source, AsyncGenerator):
            await work.source.aclose()


class _Work(Generic[T, R]):
    """Items on their way through a function. `news` is told by whatever ends: a wait for all that run would look at
    all of them for every one that ends."""

    def __init__(self, function: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T] | AsyncIterable[T]) -> None:
        self.function = function
        self.source = aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        self.running: set[asyncio.Task[R]] = set()
        self.ended: deque[asyncio.Task[R]] = deque()  # and not handed out yet
        self.pulling: list[asyncio.Task[T]] = []  # the next item of an asynchronous source
        self.news = asyncio.Event()
        self._exhausted = False

    def fill(self, limit: int) -> bool:
        """Start what there is room for. Whether there may be more."""
        try:
            if self.pulling and self.pulling[0].done():
                self._start(self.pulling.pop().result())
            while not self._exhausted and not self.pulling and len(self.running) < limit:
                if isinstance(self.source, AsyncIterator):
                    self.pulling.append(asyncio.create_task(_next(self.source)))
                    self.pulling[0].add_done_callback(lambda _: self.news.set())
                else:
                    self._start(next(self.source))
        except (StopIteration, _End):
            self._exhausted = True
        return not self._exhausted

    def _start(self, item: T) -> None:
        task = asyncio.create_task(self.function(item))
        self.running.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[R]) -> None:
        self.running.discard(task)
        self.ended.append(task)
        self.news.set()


class _End(Exception):
    """A source has no more."""


async def _next(source: AsyncIterator[T]) -> T:
    try:
        return await anext(source)
    except StopAsyncIteration:
        raise _End from None
