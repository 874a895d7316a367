"""Programs: prompting written as ordinary `async def`, held as values that can be run, repeated, combined, streamed."""

import asyncio
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, nullcontext
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload

from msgspec import Struct

from shoal.errors import UsageError
from shoal.runtime import frames, registry, scope, trace
from shoal.runtime.concurrency import gather, map_bounded
from shoal.runtime.frames import Frame
from shoal.runtime.model import Model
from shoal.runtime.model import stream as stream_answer
from shoal.runtime.outlet import Outlet, Piece, outlet
from shoal.runtime.types import Completion, Delta, Request

P = ParamSpec("P")
T = TypeVar("T")

_LIMIT = 1024  # programs of an iterable that run at once


class Program(Generic[T]):
    """A lazy value: `await` it, or give it to `shoal.run`, as often as you like; each time it is evaluated anew.

    Arguments that are Programs are run first, at once, and so is a Program that the function returns.
    """

    __slots__ = ("_args", "_declared", "_function", "_kind", "_kwargs", "name")

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        kind: trace.Kind = "program",
        declared: Callable[..., Any] | None = None,
    ) -> None:
        """`declared` is whose signature names the arguments, where it is not the function's."""
        self._function = function
        self._declared = declared or function
        self._kind = kind
        self._args = args
        self._kwargs = kwargs or {}
        self.name = name or getattr(function, "__qualname__", repr(function))

    def __await__(self) -> Generator[Any, None, T]:
        return self._run().__await__()

    async def _run(self) -> T:
        with frames.entered():
            parent = trace.current.get()
            # A built-in that stands on another is one step to who reads the trace.
            if parent is None or parent.kind == self._kind == "builtin":
                return await self._evaluate()
            span = parent.child(self.name, self._kind)
            with scope.setting(trace.current, span), span.timed():
                result = await self._evaluate(span)
                span.result = None if self._kind == "parallel" else result  # its branches have theirs
            return result

    async def _evaluate(self, span: trace.Span | None = None) -> T:
        args, kwargs = self._args, self._kwargs
        if any(isinstance(value, Program) for value in (*args, *kwargs.values())):
            args, kwargs = await _resolved(args, kwargs)
        if span is not None:
            span.arguments = self._named(args, kwargs)
        result = await self._function(*args, **kwargs)
        while isinstance(result, Program):
            result = await result
        return result  # type: ignore[no-any-return]

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = [*inspect.signature(self._declared).parameters, *map(str, range(len(args)))]
        return dict(zip(names, args, strict=False)) | dict(kwargs)

    def __repr__(self) -> str:
        values = [repr(value) for value in self._args] + [f"{name}={value!r}" for name, value in self._kwargs.items()]
        return f"{self.name}({', '.join(values)})"


async def _resolved(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    values = [*args, *kwargs.values()]
    places = [i for i, value in enumerate(values) if isinstance(value, Program)]
    results = await _at_once([values[i] for i in places], [()] * len(places))
    for i, result in zip(places, results, strict=True):
        values[i] = result
    return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))


def program(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Program[T]]:
    """Make an `async def` (a function or a method) return a Program."""
    if not asyncio.iscoroutinefunction(function):
        raise UsageError(f"@program is for async def; {getattr(function, '__qualname__', function)} is none")

    @wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> Program[T]:
        return Program(function, args, kwargs)

    made.__shoal_program__ = True  # type: ignore[attr-defined]
    return made


# Many at once


class _Branch(Struct):
    """A program to run beside others: its frame, and the place of its partial results."""

    program: Awaitable[Any]
    index: int
    frame: Frame
    outlet: Outlet | None

    async def run(self) -> Any:
        age = scope.age.get() or self.index  # the first to begin is served first, to its end
        with scope.setting(outlet, self.outlet), scope.setting(scope.age, age), frames.entered(self.frame):
            result = await self.program
        if self.outlet is not None:
            self.outlet.finish(result)
        return result

    async def attempt(self) -> Any:
        try:
            return await self.run()
        except Exception as error:  # noqa: BLE001 - asked for: the caller gets it as a value
            return error


def _branch(frame: Frame, index: int, program: Awaitable[Any], path: tuple[int, ...] = ()) -> _Branch:
    around = outlet.get()
    return _Branch(program, index, frame.branch(*path), around.at(index) if around else None)


async def _at_once(
    programs: Iterable[Awaitable[Any]], paths: Iterable[tuple[int, ...]], *, return_exceptions: bool = False
) -> list[Any]:
    with frames.entered() as frame:
        branches = [_branch(frame, i, p, path) for i, (p, path) in enumerate(zip(programs, paths, strict=True))]
        results = await gather(*(_task(b.attempt() if return_exceptions else b.run()) for b in branches))
        frame.join(branch.frame for branch in branches)
        return results


def _task(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """In a task even where it is alone, so that a frame belongs to one task."""
    return asyncio.ensure_future(coroutine)


async def _bounded(
    programs: Iterable[Awaitable[Any]] | AsyncIterable[Awaitable[Any]], limit: int, *, return_exceptions: bool
) -> list[Any]:
    """The results, in order, of at most `limit` at once; taken from the source when there is room."""
    with frames.entered() as frame:
        numbered = _numbered(programs) if isinstance(programs, AsyncIterable) else enumerate(programs)
        before, asked = frame.frozen(), Frame()  # the source may ask too, while branches run

        async def one(item: tuple[int, Awaitable[Any]]) -> tuple[int, Any]:
            branch = _branch(before, *item)
            result = await (branch.attempt() if return_exceptions else branch.run())
            asked.join([branch.frame])
            return branch.index, result

        results = {index: result async for index, result in map_bounded(one, numbered, limit)}
        frame.join([asked])
    return [results[i] for i in range(len(results))]


async def _numbered(programs: AsyncIterable[Awaitable[Any]]) -> AsyncGenerator[tuple[int, Awaitable[Any]], None]:
    i = 0
    async with aclosing(programs) if isinstance(programs, AsyncGenerator) else nullcontext():
        async for item in programs:
            yield i, item
            i += 1


def parallel(*programs: Any, limit: int | None = None, return_exceptions: bool = False) -> Program[list[Any]]:
    """Run programs at once; their results in order.

    Several programs, or one iterable (async too) of any length, from which at most `limit` (1024) run at once. The
    first that fails cancels the others and is raised, or with `return_exceptions` stands in its place of the list.
    """
    source = programs[0] if len(programs) == 1 and not isinstance(programs[0], Awaitable) else None
    if source is not None and not isinstance(source, Iterable | AsyncIterable):
        raise UsageError(f"parallel runs programs, not {type(source).__name__}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: at least one must be able to run")
    if source is None:
        _check_awaitable(programs)
    once = isinstance(source, Iterator | AsyncIterator)
    taken = False

    async def run() -> list[Any]:
        nonlocal taken
        if taken:
            raise UsageError("parallel: its iterator has been taken by an earlier run; give it a list")
        taken = once
        if source is not None or limit is not None:
            items = programs if source is None else source
            return await _bounded(items, limit or _LIMIT, return_exceptions=return_exceptions)
        return await _at_once(programs, [()] * len(programs), return_exceptions=return_exceptions)

    return Program(run, name="parallel", kind="parallel")


def repeat(program: Program[T], n: int, *, start: int = 0) -> Program[list[T]]:
    """`n` runs of a program, with draws of their own, at once; the results in order.

    Draws are named `start` to `start + n - 1`: 8 after 5 asks for 3. Repeats within repeats have draws of their own.
    """
    if n < 1:
        raise UsageError(f"n={n}: at least one run is needed")
    if start < 0:
        raise UsageError(f"start={start} is below 0")
    if not isinstance(program, Program):
        raise UsageError(f"repeat runs a program again, not {type(program).__name__}; call the function first")

    async def run() -> list[T]:
        return await _at_once([program] * n, [(i,) for i in range(start, start + n)])

    return Program(run, name=f"repeat({program.name}, {n})", kind="parallel")


def _check_awaitable(programs: Iterable[Any]) -> None:
    for item in programs:
        if not isinstance(item, Awaitable):
            raise UsageError(f"parallel runs programs, not {type(item).__name__}; call the function first")


def with_registry(program: Program[T], scope_: registry.Registry) -> Program[T]:
    """The program, with the models and implementations of a registry wherever it is run."""

    async def run() -> T:
        with scope_:
            return await program

    return Program(run, name=program.name)


# As it comes


@overload
def stream(program: Program[Any], /) -> AsyncIterator[Piece]: ...
@overload
def stream(model: Model, request: Request | str, /) -> AsyncIterator[Delta | Completion]: ...
def stream(subject: Any, request: Any = None, /) -> AsyncIterator[Any]:
    """What comes, as it comes: `async for piece in stream(program)` or `async for delta in stream(model, request)`.

    A program gives Pieces: its text, the results of its branches as they are done, its own result last. A model gives
    Deltas, then the whole Completion; where nothing streams (a cached draw, a vote), one delta holds the whole text.
    """
    if isinstance(subject, Program):
        return _pieces(subject)
    return stream_answer(subject, Request.of(request) if isinstance(request, str) else request)


async def _pieces(program: Program[Any]) -> AsyncIterator[Piece]:
    pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
    around = frames.here()
    branch = around.branch() if around else Frame()
    task = asyncio.ensure_future(_Branch(program, 0, branch, Outlet(pieces.put_nowait)).run())
    task.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        task.result()  # or what it failed with
        if around is not None:
            around.join([branch])
    finally:
        task.cancel()


async def _awaited(program: Awaitable[T]) -> T:
    return await program
