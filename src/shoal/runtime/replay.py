"""Running a program again: what it was given is kept with it, and nothing else need be asked."""

from contextvars import ContextVar
from typing import Protocol

from shoal.errors import NotCached
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request


class Recorder(Protocol):
    """Keeps a program's finished draws, and gives them back when the program is run again."""

    def replay(self, identity: str, request: Request) -> Completion | None: ...

    async def record(self, identity: str, request: Request, completion: Completion) -> None: ...


current: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


offline: ContextVar[bool] = ContextVar("offline", default=False)  # nothing may be asked that is not kept


class Online:
    """A Model that refuses to be asked where only what is kept may be used. It stands behind the cache."""

    def __init__(self, model: Model, name: str) -> None:
        self.model = model
        self.name = name

    async def __call__(self, request: Request, /) -> Completion:
        if offline.get():
            draw = f"draw {request.sample} of " if request.sample else ""
            raise NotCached(f"not in the cache of {self.name}: {draw}{request.text[-200:]!r}")
        return await self.model(request)


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
