"""`shoal.run`: a program on a model, from first call to last."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Literal, TypeVar, overload

from shoal.backends import loop
from shoal.runtime import budget as budgets
from shoal.runtime import registry, scope
from shoal.runtime import replay as replays
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.runtime.trace import Span, tracing
from shoal.techniques.opening import opened

T = TypeVar("T")


@overload
def run(
    program: Awaitable[T],
    *,
    model: Model | str | None = None,
    timeout: float | None = None,
    budget: Budget | None = None,
    replay: bool = False,
    trace: Literal[False] = False,
) -> T: ...
@overload
def run(
    program: Awaitable[T],
    *,
    model: Model | str | None = None,
    timeout: float | None = None,
    budget: Budget | None = None,
    replay: bool = False,
    trace: Literal[True],
) -> tuple[T, Span]: ...
def run(program: Awaitable[T], **options: Any) -> T | tuple[T, Span]:
    """Run a Program (or any awaitable) to its end; its result, or with `trace` the result and the call tree.

    `model` is what its built-ins ask: a Model, or a spec, which is opened and closed again. After `timeout` seconds
    what is under way is cancelled, up to the wire, and TimeoutError raised; a `budget` that is spent raises
    BudgetExceeded. With `replay` nothing is asked: every draw must be in the cache, or NotCached names the first that
    is not. Works in scripts and, in a thread of its own, in Jupyter.
    """
    outcome: T | tuple[T, Span] = loop.run(arun(program, **options))
    return outcome


async def arun(
    program: Awaitable[T],
    *,
    model: Model | str | None = None,
    timeout: float | None = None,
    budget: Budget | None = None,
    replay: bool = False,
    trace: bool = False,
) -> Any:
    """`run` for a program that is already asynchronous."""
    async with asyncio.timeout(timeout), _on(model):
        with ExitStack() as scopes:
            if replay:
                scopes.enter_context(scope.setting(replays.offline, True))
            if budget is not None:
                scopes.enter_context(scope.setting(budgets.current, budget))
            root = scopes.enter_context(tracing()) if trace else None
            result = await program
    return (result, root) if trace else result


@asynccontextmanager
async def _on(model: Model | str | None) -> AsyncIterator[None]:
    if model is None:
        yield
        return
    async with opened(model) as mine:
        with registry.using(mine):
            yield
