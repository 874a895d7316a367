"""Requests that pass through a router as they are: to one of its servers, and to the next until one has begun."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from msgspec import Raw

from shoal.backends.affinity import blocks_of
from shoal.backends.line import Errand
from shoal.backends.member import Lease, Member
from shoal.backends.relay import Api, Fields, Passed, Passing, Relays, expected
from shoal.backends.router import Router
from shoal.errors import ModelError

T = TypeVar("T")


class RouterRelay:
    """What passes requests on to one of a router's members, by the rules that hold for its draws.

    Every member must have a relay of its own.
    """

    def __init__(self, router: Router) -> None:
        self.router = router

    async def post(self, api: Api, fields: Fields) -> Passed:
        """The whole reply to a request that does not stream."""
        passed, lease = await self._carried(fields, lambda relay: relay.post(api, fields))
        lease.answered()
        lease.release()
        return passed

    @asynccontextmanager
    async def stream(self, api: Api, fields: Fields) -> AsyncIterator[Passing]:
        """The reply to a request that streams. Once it has begun it is this member's, to the end."""
        lease: Lease | None = None
        try:
            async with AsyncExitStack() as replies:
                begin = replies.enter_async_context
                passing, lease = await self._carried(fields, lambda relay: begin(relay.stream(api, fields)))
                yield passing
            lease.answered()
        except ModelError as error:  # a connection's errors have their types only here, where it is left
            if lease is not None:
                lease.report(error, asyncio.get_running_loop().time())
            raise
        finally:
            if lease is not None:
                lease.release()

    async def _carried(self, fields: Fields, ask: Callable[[Relays], Awaitable[T]]) -> tuple[T, Lease]:
        def of(member: Member) -> Awaitable[T]:
            assert member.model.relay is not None
            return ask(member.model.relay)

        asked = [fields.get("tools"), fields.get("messages"), fields.get("prompt")]
        text = b"".join(bytes(memoryview(part)) for part in asked if isinstance(part, Raw))
        errand = Errand(
            self.router.members, None, expected(fields), blocks_of(text) if self.router.turns.by_prefix else []
        )
        return await self.router.carry(errand, of)
