"""Running things at once, structured: nothing outlives its caller, and one failure is raised as itself."""

import asyncio
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
from typing import Any, TypeVar

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
    source = aiter(items) if isinstance(items, AsyncIterable) else None
    plain = iter(items) if isinstance(items, Iterable) else iter(())
    running: set[asyncio.Task[R]] = set()
    done: set[asyncio.Task[Any]] = set()
    pulling: asyncio.Task[T] | None = None
    exhausted = False
    try:
        while running or not exhausted:
            while not exhausted and pulling is None and len(running) < limit:
                if source is not None:
                    pulling = asyncio.create_task(_next(source))
                    continue
                try:
                    running.add(asyncio.create_task(function(next(plain))))
                except StopIteration:
                    exhausted = True
            if waiting := {*running, *({pulling} if pulling else ())}:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                running -= done
                if pulling in done:
                    try:
                        running.add(asyncio.create_task(function(pulling.result())))
                    except _End:
                        exhausted = True
                    done.discard(pulling)
                    pulling = None
                for task in done:
                    yield task.result()
    finally:
        await _cancel([*running, *done, *({pulling} if pulling else ())])
        if isinstance(source, AsyncGenerator):
            await source.aclose()


class _End(Exception):
    """A source has no more."""


async def _next(source: AsyncIterator[T]) -> T:
    try:
        return await anext(source)
    except StopAsyncIteration:
        raise _End from None
