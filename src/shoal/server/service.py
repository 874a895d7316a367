"""Carrying out a request: its model asked within its budget, in its caller's realm, and traced under techniques."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from time import perf_counter
from types import TracebackType

from msgspec import Struct

from shoal import sandbox
from shoal.backends.prices import Price, cost_of, usages_of
from shoal.errors import BudgetExceeded, SandboxUnavailable, UsageError
from shoal.runtime import budget as budgets
from shoal.runtime import scope
from shoal.runtime.budget import Budget
from shoal.runtime.concurrency import gather
from shoal.runtime.limits import estimated_tokens, expected_tokens
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Completion, Delta, Request, Usage, total
from shoal.server.access.callers import Caller
from shoal.server.limits import refuse_extreme, refuse_long_schema
from shoal.server.names import Names, Served
from shoal.server.refusals import Refusal
from shoal.server.settings import Settings
from shoal.server.wire.chat_input import OwnOptions
from shoal.server.wire.chat_output import Told
from shoal.techniques import TECHNIQUES
from shoal.techniques.bounds import bound


class Call(Struct, frozen=True):
    """What a client asks of a model: `n` answers to one request and to each of `others`, and what they may cost."""

    served: Served
    request: Request
    caller: Caller
    own: OwnOptions = OwnOptions()
    n: int = 1
    others: tuple[Request, ...] = ()

    @property
    def draws(self) -> list[Request]:
        """What the model is asked: answer j of request i is number i * n + j."""
        if self.n == 1 and not self.others:
            return [self.request]
        asked = [request for request in (self.request, *self.others) for _ in range(self.n)]
        return [request.draw(number) for number, request in enumerate(asked)]


class Piece(Struct, frozen=True):
    """A part of answer number `index` on its way; the last part is the whole of it."""

    index: int
    part: Delta | Completion


class Work:
    """A call under way: its call tree where a technique answers, and what it has spent."""

    def __init__(self, call: Call, budget: Budget, prices: Mapping[str, Price]) -> None:
        self.call = call
        self.prices = prices
        self.budget = budget
        self.trace: Span | None = None
        self.began = perf_counter()
        self.calls_ended = 0
        self.streamed = 0  # characters, since a call last ended
        self.on_progress: Callable[[], None] | None = None

    def watch(self, span: Span) -> None:
        if span.kind == "call" and span.end:
            self.calls_ended += 1
            self.streamed = 0
            if self.on_progress is not None:
                self.on_progress()

    @property
    def usage(self) -> Usage:
        return self.budget.spent

    def lost(self) -> Usage:
        """About what the calls cost that are broken off now: their prompts, and what was streamed."""
        if self.trace is not None:
            broken = [span.request for span in self.trace.calls() if span.request and (span.cancelled or not span.end)]
        else:
            broken = self.call.draws[self.usage.calls + self.usage.cached_calls :]
        if not broken:
            return Usage()
        prompts = sum(expected_tokens(request, 0) for request in broken)
        return Usage(prompts, estimated_tokens(self.streamed), len(broken), estimated=True)

    def progress(self) -> str:
        """How far the work is, for people who wait."""
        spent = self.usage
        calls = f"{self.calls_ended} call{'s' * (self.calls_ended != 1)}"
        return f"{calls}, {spent.total_tokens} tokens, {perf_counter() - self.began:.0f} s"

    def told(self, completions: list[Completion]) -> Told:
        """How the answers came about."""
        usage = total(completion.usage for completion in completions)
        first, served = completions[0], self.call.served
        paid = usages_of(self.trace) if self.trace is not None else [(served.base_name, usage)]
        return Told(
            base=served.base_name,
            technique=served.technique,
            calls=usage.calls,
            cached_calls=usage.cached_calls,
            critical_path=len(self.trace.critical_path()) if self.trace is not None else 1,
            seconds=round(perf_counter() - self.began, 3),
            answer=first.answer,
            confidence=first.confidence,
            estimated=usage.estimated,
            cost=cost_of(paid, self.prices),
        )


class Service:
    """What all endpoints ask: it knows the models, and what a request may spend."""

    def __init__(self, settings: Settings, names: Names) -> None:
        self.settings = settings
        self.names = names
        self._numbers = count(1)

    async def complete(self, call: Call) -> tuple[list[Completion], Work]:
        """All n answers, asked at once."""
        work = await self._work(call)
        with call.caller.admitted(work.budget, work.lost):
            async with self._scopes(work):
                return await _asked(call), work

    async def stream(self, call: Call) -> AsyncGenerator[Work | Piece, None]:
        """The work, at once; then the parts of the answers as they come, and of each, last, the whole."""
        work = await self._work(call)
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()

        if call.own.progress:
            work.on_progress = lambda: pieces.put_nowait(Piece(0, Delta(reasoning=f"{work.progress()}\n")))

        async def carry_out() -> None:
            async with self._scopes(work):
                await _streamed(work, pieces)

        with call.caller.admitted(work.budget, work.lost):
            yield work
            task = asyncio.ensure_future(carry_out())
            task.add_done_callback(lambda _: pieces.put_nowait(None))
            try:
                while (piece := await pieces.get()) is not None:
                    yield piece
                task.result()
            finally:
                task.cancel()
                await asyncio.wait([task])

    @asynccontextmanager
    async def carrying(self, call: Call) -> AsyncIterator[Work]:
        """The budget, realm and time of a call, around work that somebody else does."""
        work = await self._work(call)
        with call.caller.admitted(work.budget, work.lost):
            async with self._scopes(work):
                yield work

    async def listed(self, caller: Caller) -> list[str]:
        """The names of the models that a caller may ask for, without those that cannot run here."""
        runnable = {slug: await _runnable(slug) for slug, entry in TECHNIQUES.items() if entry.runs_code}
        return [
            name
            for name in self.names.listed()
            if caller.covers(served := self.names.resolve(name))
            and all(runnable.get(slug, True) for slug in served.slugs)
        ]

    def budget(self, own: OwnOptions) -> Budget:
        """What one request may spend: what the server allows, or less where the request asks for less."""
        most = self.settings
        return Budget(
            min(own.max_calls or most.max_calls, most.max_calls),
            min(own.max_tokens or most.max_tokens, most.max_tokens),
            min(own.max_seconds or most.max_seconds, most.max_seconds),
        )

    async def _work(self, call: Call) -> Work:
        call.caller.check(call.served)
        for slug in call.served.slugs:
            if TECHNIQUES[slug].runs_code:
                await sandbox.need()
        refuse_extreme(call.served.model)
        refuse_long_schema(call.request, call.served.model)
        budget = self.budget(call.own)
        assert budget.calls is not None
        expected = bound(call.served.model).calls * call.n * (1 + len(call.others))
        if expected > budget.calls:
            most = f"a request may take {budget.calls}; use smaller options"
            message = f"this may take {expected} calls of the model, and {most}"
            raise Refusal(400, message, kind="budget_exceeded", param="model", code="budget_exceeded")
        return Work(call, budget, self.settings.prices)

    @asynccontextmanager
    async def _scopes(self, work: Work) -> AsyncIterator[None]:
        with ExitStack() as stack:
            stack.enter_context(scope.setting(scope.realm, self._realm(work.call.caller)))
            stack.enter_context(scope.setting(budgets.current, work.budget))
            if work.call.served.base is None:
                work.trace = stack.enter_context(tracing(work.call.served.name, work.watch))
            async with Timed(work.budget):
                yield

    def _realm(self, caller: Caller) -> str:
        """Whose draws may be shared: nobody's, one key's, or all, as the cache is kept. A batch names its lines."""
        if self.settings.cache != "off":
            return {"key": f"key {caller.id}", "shared": "server"}[self.settings.cache]
        return scope.realm.get() or f"request {next(self._numbers)}"


class Timed:
    """The budget's seconds, for all of the body. BudgetExceeded says what was spent when any of it ran out."""

    __slots__ = ("_began", "_budget", "_timer")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._began, self._timer = perf_counter(), asyncio.timeout(budget.seconds)

    async def __aenter__(self) -> None:
        await self._timer.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timer.__aexit__(kind, error, traceback)
        except TimeoutError:  # its own
            raise self._exceeded(f"the budget of {self._budget.seconds:g} seconds is spent") from None
        if isinstance(error, BudgetExceeded):
            raise self._exceeded(str(error)) from None

    def _exceeded(self, why: str) -> BudgetExceeded:
        spent, seconds = self._budget.spent, perf_counter() - self._began
        told = f"{spent.calls} calls, {spent.total_tokens} tokens, {seconds:.1f} s"
        return BudgetExceeded(f"{why}; this request has spent {told}")


async def _runnable(slug: str) -> bool:
    """Whether what a technique runs can run here."""
    try:
        await sandbox.need(z3=slug == "z3_solver")
    except (SandboxUnavailable, UsageError):
        return False
    return True


async def _asked(call: Call) -> list[Completion]:
    return list(await gather(*(call.served.model(request) for request in call.draws)))


async def _streamed(work: Work, pieces: "asyncio.Queue[Piece | None]") -> None:
    call = work.call

    async def one(index: int, request: Request) -> None:
        streamed = False

        def on_delta(delta: Delta) -> None:
            nonlocal streamed
            streamed = streamed or bool(delta.text.strip())
            work.streamed += len(delta.text) + len(delta.reasoning)
            pieces.put_nowait(Piece(index, delta))

        with scope.setting(scope.deltas, on_delta):
            completion = await call.served.model(request)
        if not streamed and completion.text:
            pieces.put_nowait(Piece(index, Delta(completion.text)))
        pieces.put_nowait(Piece(index, completion))

    await gather(*(one(index, request) for index, request in enumerate(call.draws)))
