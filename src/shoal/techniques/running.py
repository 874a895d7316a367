"""`shoal.run`: a program on a model, from first call to last."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager
from typing import Literal, TypedDict, TypeVar, Unpack, overload

from shoal.backends import loop
from shoal.errors import refuse_unknown
from shoal.runtime import budget as budgets
from shoal.runtime import frames, registry, scope
from shoal.runtime import replay as replays
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.runtime.trace import Span, tracing
from shoal.techniques.opening import opened

T = TypeVar("T")


class RunOptions(TypedDict, total=False):
    """How a program is run; see `run`."""

    model: Model | str | None
    timeout: float | None
    budget: Budget | None
    replay: bool


@overload
def run(program: Awaitable[T], *, trace: Literal[False] = False, **options: Unpack[RunOptions]) -> T: ...
@overload
def run(program: Awaitable[T], *, trace: Literal[True], **options: Unpack[RunOptions]) -> tuple[T, Span]: ...
def run(program: Awaitable[T], *, trace: bool = False, **options: Unpack[RunOptions]) -> T | tuple[T, Span]:
    """Run a Program (or any awaitable) to its end; its result, or with `trace` the result and the call tree.

    `model` is what its built-ins ask: a Model, or a spec, which is opened and closed again. After `timeout` seconds
    what is under way is cancelled, up to the wire, and TimeoutError raised; a `budget` that is spent raises
    BudgetExceeded. With `replay` nothing is asked: every draw must be in the cache, or NotCached names the first that
    is not. Works in scripts and, in a thread of its own, in Jupyter.
    """
    return loop.run(_traced(program, options)) if trace else loop.run(arun(program, **options))


async def arun(program: Awaitable[T], **options: Unpack[RunOptions]) -> T:
    """`run` for a program that is already asynchronous; `with shoal.tracing() as root:` around it keeps the tree."""
    refuse_unknown("run", options, RunOptions)
    async with asyncio.timeout(options.get("timeout")), _on(options.get("model")):
        with ExitStack() as scopes:
            if options.get("replay"):
                scopes.enter_context(scope.setting(replays.offline, True))
            if (budget := options.get("budget")) is not None:
                scopes.enter_context(scope.setting(budgets.current, budget))
            scopes.enter_context(frames.entered())
            return await program


async def _traced(program: Awaitable[T], options: RunOptions) -> tuple[T, Span]:
    with tracing() as root:
        return await arun(program, **options), root


@asynccontextmanager
async def _on(model: Model | str | None) -> AsyncIterator[None]:
    if model is None:
        yield
        return
    async with opened(model) as mine:
        with registry.using(mine):
            yield
