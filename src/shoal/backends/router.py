"""One name for several models: each request goes to the member that has room, is well, and knows its beginning.

A router stands where a single model has its scheduler. Above it are trace, journal, cache and budget, which know one
model; below it each member has a scheduler of its own, with its own limits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar, cast

from shoal.backends.affinity import blocks_of, text_of
from shoal.backends.health import blames_member
from shoal.backends.line import Errand
from shoal.backends.member import Lease, Member
from shoal.backends.turns import Turns
from shoal.errors import ContextLengthExceeded, ModelError, RateLimited, ShoalError, Unsupported
from shoal.runtime import scope
from shoal.runtime.backend import Capabilities, CountsTokens, Embeds
from shoal.runtime.limits import Limits, expected_tokens
from shoal.runtime.retry import RetryBudget, RetryPolicy, retry_delay
from shoal.runtime.types import Completion, Delta, Request

T = TypeVar("T")


class Router:
    """A Model over members, and what is known of them together.

    A member that fails is passed over at once, and taken out when it fails again and again; only when all were tried
    does a request wait as `retry` says. An error of the request's own is raised; a prompt that is too long goes on to
    the members after the one it did not fit. When nobody answers, the last error is raised as it is, naming the member.

    `identity` names the members, whatever their order, weights and limits: their answers pass for each other's.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        affinity: bool = True,
        max_in_flight: int | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.name = name
        self.members = tuple(members)
        for index, member in enumerate(self.members):
            member.index = index
        self.identity: str = " + ".join(sorted({member.model.backend.identity for member in self.members}))
        self.capabilities: Capabilities = _merged([member.model.backend.capabilities for member in self.members])
        self.turns = Turns(self.members, affinity=affinity, max_in_flight=max_in_flight)
        longest = max(member.scheduler.retry.deadline for member in self.members)
        self.retry = retry or RetryPolicy(deadline=longest)
        self.retries = 0
        self._retry_budget = RetryBudget()
        self._counts_tokens = any(member.admission.counts_tokens for member in self.members)
        self._pauses: dict[Request, asyncio.Event] = {}

    # What observers see

    @property
    def _first(self) -> list[Member]:
        return [member for member in self.members if not member.fallback] or list(self.members)

    @property
    def limits(self) -> Limits:
        """What the members allow together, where all have such a limit; fallbacks are not counted on."""
        each = [member.model.limits for member in self._first]

        def summed(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return sum(known) if len(known) == len(values) else None

        return Limits(summed([one.rpm for one in each]), summed([one.tpm for one in each]), self.max_in_flight)

    @property
    def max_in_flight(self) -> int:
        """Wire requests allowed at once."""
        whole = sum(member.scheduler.max_in_flight for member in self._first)
        return min(whole, self.turns.max_in_flight or whole)

    @property
    def in_flight(self) -> int:
        return sum(member.scheduler.in_flight for member in self.members)

    @property
    def waiting(self) -> int:
        return self.turns.waiting + sum(member.scheduler.waiting for member in self.members)

    @property
    def wire_requests(self) -> int:
        return sum(member.scheduler.wire_requests for member in self.members)

    @property
    def draws(self) -> int:
        return sum(member.scheduler.draws for member in self.members)

    def has_under_way(self, request: Request) -> bool:
        """Whether this very draw is already waited for, so that asking for it costs nothing."""
        under_way = any(member.scheduler.has_under_way(request) for member in self.members)
        return under_way or self.turns.holds(request)

    def refuse_waiting(self, error: ShoalError) -> None:
        """Raise `error` in the callers of all draws not sent yet."""
        self.turns.refuse(error)
        for member in self.members:
            member.scheduler.refuse_waiting(error)

    # Asking

    async def __call__(self, request: Request, /) -> Completion:
        able = self._able(request)
        tokens = expected_tokens(request) if self._counts_tokens else 0
        blocks = blocks_of(text_of(request)) if self.turns.by_prefix else []
        sink = scope.deltas.get()
        errand = Errand(able, request if sink is None else None, tokens, blocks)
        if sink is None:
            completion, lease = await self.carry(errand, lambda member: member.scheduler(request))
        else:
            with scope.setting(scope.deltas, _noticing(sink, errand)):
                completion, lease = await self.carry(errand, lambda member: member.scheduler(request))
        lease.answered()
        lease.release()
        return completion

    def _able(self, request: Request) -> tuple[Member, ...]:
        lacking = [member.lacks(request) for member in self.members]
        able = tuple(member for member, lacks in zip(self.members, lacking, strict=True) if lacks is None)
        if not able:
            reasons = dict.fromkeys(lacks for lacks in lacking if lacks is not None)
            raise Unsupported(f"no member of {self.name} can do this: {'; '.join(reasons)}")
        return able

    async def carry(self, errand: Errand, ask: Callable[[Member], Awaitable[T]]) -> tuple[T, Lease]:
        """What the first member says that answers, and the lease on it, which is to be released."""
        loop = asyncio.get_running_loop()
        while True:
            lease = await self.turns.turn(errand)
            errand.deadline = errand.deadline or loop.time() + self.retry.deadline
            errand.attempts += 1
            try:
                result = await ask(lease.member)
            except ModelError as error:
                first = lease.report(error, loop.time())
                delay = self._next(errand, lease.member, error, loop.time())
                if delay is None:
                    raise
                self.retries += first
            else:
                return result, lease.join()
            finally:
                lease.release()
            await self._pause(errand.question, delay)

    def _next(self, errand: Errand, member: Member, error: ModelError, now: float) -> float | None:
        """Seconds until the errand goes on to those it then has left, or None where the error is to be raised."""
        if errand.begun:
            return None
        if not blames_member(error):
            later = tuple(other for other in errand.able if other.index > member.index)
            if not later or not isinstance(error, ContextLengthExceeded):
                return None
            errand.able = errand.left = later
            return 0.0
        errand.left = tuple(other for other in errand.left if other is not member)
        busy = isinstance(error, RateLimited)  # it may have room again before others have
        usable = [other for other in errand.left if other.health.usable(now)]
        if now < errand.deadline and any(not busy or other.has_room(now, errand.tokens) for other in usable):
            return 0.0
        errand.left = errand.able  # everybody was tried: now it is as with a single server
        if errand.question in self._pauses and error.retryable and errand.attempts < self.retry.attempts:
            return 0.0
        return retry_delay(error, errand.attempts, errand.deadline - now, self.retry, self._retry_budget)

    async def _pause(self, question: Request | None, delay: float) -> None:
        """Wait; draws of one question wait as one, so that they leave together again."""
        if question is None:
            await asyncio.sleep(delay)
            return
        if delay > 0:
            over = self._pauses[question] = asyncio.Event()

            def end() -> None:
                self._pauses.pop(question, None)
                over.set()

            asyncio.get_running_loop().call_later(delay, end)
        if (pause := self._pauses.get(question)) is not None:
            await pause.wait()

    # Beside drawing

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """From the first member that has embeddings, and from no other: vectors of two models do not compare."""
        member = next(member for member in self.members if member.model.backend.capabilities.embed)
        return await cast(Embeds, member.model.backend).embed(texts)

    async def count_tokens(self, request: Request) -> int:
        """As the first member counts that can."""
        member = next(member for member in self.members if member.model.backend.capabilities.count_tokens)
        return await cast(CountsTokens, member.model.backend).count_tokens(request)

    async def aclose(self) -> None:
        """Close all members, whatever becomes of one."""
        async with AsyncExitStack() as stack:
            for member in self.members:
                stack.push_async_callback(member.model.aclose)

    def __repr__(self) -> str:
        return self.name


def _noticing(sink: Callable[[Delta], None], errand: Errand) -> Callable[[Delta], None]:
    """The sink, and a note that something of the answer was seen."""

    def noticed(delta: Delta) -> None:
        errand.begun = True
        sink(delta)

    return noticed


def _merged(each: list[Capabilities]) -> Capabilities:
    """What some member can do; requests at once add up."""
    values = {name: max(getattr(one, name) for one in each) for name in Capabilities.__struct_fields__}
    return Capabilities(**values | {"max_in_flight": sum(one.max_in_flight for one in each)})
