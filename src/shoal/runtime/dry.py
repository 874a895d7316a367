"""A dry run: while one is on, a stand-in answers for every base model, and nothing is asked of any."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from shoal.runtime.backend import CountsTokens, Embeds
from shoal.runtime.types import Completion, Request


class StandIn(Embeds, CountsTokens, Protocol):
    """What answers for a base model."""

    async def __call__(self, request: Request, /) -> Completion: ...


# From a base model to what stands in for it. Read where a base model is called, so that it holds for all a program
# can reach, whether it was given the model, holds it or opens it.
stand_in: ContextVar[Callable[[Any], StandIn] | None] = ContextVar("stand_in", default=None)
