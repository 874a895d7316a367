"""An event loop whose clock jumps to the next timer: what takes minutes is over at once, and exact to the second."""

import asyncio
import selectors
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from shoal.backends import BaseModel
from shoal.runtime.scheduler import Scheduler

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run_virtually(program: Awaitable[T]) -> T:
    async def main() -> T:
        return await program

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def clocked(models: Iterable[BaseModel]) -> None:
    """Let the rate limits of these models run on the loop's clock."""
    now = asyncio.get_running_loop().time
    for model in models:
        assert isinstance(model.scheduler, Scheduler)
        rate = model.scheduler.admission._rate
        for bucket in (rate.requests, rate.tokens):
            if bucket is not None:
                bucket.clock = now
                bucket.filled = now()
