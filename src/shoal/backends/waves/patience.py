"""Asking a provider until it answers: it may be away for hours, and what was sent to it is still there then."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shoal.backends.waves.settings import Pace
from shoal.errors import MalformedResponse, ModelError

T = TypeVar("T")
_MOST_MALFORMED = 5  # replies that are none: not an outage that passes, but another server


async def persist(
    call: Callable[[], Awaitable[T]], pace: Pace, say: Callable[[str], None], attempts: int | None = None
) -> T:
    """`call()` until it succeeds or fails in a way that does not pass; `say` is told why it waits, and "" after."""
    pause, tried, malformed = pace.pause, 0, 0
    while True:
        try:
            result = await call()
        except ModelError as error:
            tried += 1
            malformed += isinstance(error, MalformedResponse)
            if not error.retryable or tried == attempts or malformed == _MOST_MALFORMED:
                raise
            say(str(error))
            wait = max(pause, error.retry_after or 0.0) * random.uniform(1.0, 1.1)
        else:
            say("")
            return result
        await asyncio.sleep(wait)
        pause = min(2 * pause, pace.longest)
