"""Running things at once, structured: nothing outlives its caller, and one failure is raised as itself."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
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


async def map_bounded(
    function: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T] | AsyncIterable[T], limit: int
) -> AsyncIterator[R]:
    """Apply `function` to a stream of items, at most `limit` at once; results as they finish.

    Items are taken only when there is room, so a source of any length is held in bounded memory.
    """
    source = aiter(items) if isinstance(items, AsyncIterable) else _stream(items)
    running: set[asyncio.Task[R]] = set()
    done: set[asyncio.Task[R]] = set()
    exhausted = False
    try:
        while running or not exhausted:
            while not exhausted and len(running) < limit:
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    exhausted = True
                else:
                    running.add(asyncio.create_task(function(item)))
            if running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
    finally:
        await _cancel([*running, *done])


async def _stream(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
