"""A Model that records its draws with the program that asked for them, where a recorder is in scope."""

from contextvars import ContextVar
from typing import Protocol

from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request


class Recorder(Protocol):
    """Keeps a program's finished draws, and gives them back when the program is run again."""

    def replay(self, identity: str, request: Request) -> Completion | None: ...

    async def record(self, identity: str, request: Request, completion: Completion) -> None: ...


current: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


class Recorded:
    """Outermost around a backend, so that a program run again gets every draw back as it got it the first time."""

    def __init__(self, model: Model, identity: str) -> None:
        self.model = model
        self.identity = identity

    async def __call__(self, request: Request, /) -> Completion:
        recorder = current.get()
        if recorder is None:
            return await self.model(request)
        known = recorder.replay(self.identity, request)
        if known is not None:
            return known
        completion = await self.model(request)
        await recorder.record(self.identity, request, completion)
        return completion
