"""Many concurrent draws become few wire requests: equal draws asked once, draws of one question fused, oldest first.

There is no timer and no barrier. A draw that becomes ready waits only until nothing else can run without an answer
(a few turns of the event loop), so that draws which belong together leave together.
"""

import asyncio
import heapq
from asyncio import Future
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from itertools import count

from shoal.errors import BadRequest, DeadlineExceeded, EngineError, MalformedResponse, ModelError, ShoalError
from shoal.runtime import scope
from shoal.runtime.admission import Admission, Slot
from shoal.runtime.backend import Backend, Draws, Outcome
from shoal.runtime.limits import Limits, expected_tokens
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.types import Completion, Delta, Request

# Turns of the event loop without a new draw after which nothing else is taken to be running. A backend that batches
# loses a whole batch to a draw that comes late, so it is given more turns.
_QUIET_TURNS = 1
_QUIET_TURNS_BATCHING = 8
_LOOK_PAST = 4  # how far past draws that do not fit a batch others are looked for, in batches
_MOST_TURNS = 32  # programs that never fall silent must not hold back those that wait


class _Draw:
    """A draw somebody waits for."""

    __slots__ = (
        *("age", "alone", "attempts", "deadline", "done", "load"),
        *("order", "queued", "request", "sink", "waiters"),
    )

    def __init__(self, request: Request, age: int, order: int, sink: Callable[[Delta], None] | None) -> None:
        self.request = request
        self.age = age
        self.order = order
        self.sink = sink
        self.waiters: list[Future[Completion]] = []
        self.attempts = 0
        self.deadline = 0.0  # set when its first wire request leaves
        self.alone = False  # refused in company; to be asked by itself
        self.queued = False
        self.load: _Load | None = None  # the wire request it is in
        self.done: Completion | None = None  # set when it is answered and those who wait are not awake yet

    def __lt__(self, other: "_Draw") -> bool:
        return (self.age, self.order) < (other.age, other.order)


class _Load:
    """One wire request: questions, the draws of each, and the task that waits for it."""

    __slots__ = ("calls", "sent", "slot", "task")

    def __init__(self, calls: list[list[_Draw]], slot: Slot, sent: float) -> None:
        self.calls, self.slot, self.sent = calls, slot, sent
        self.task: asyncio.Task[None] | None = None

    def draws(self) -> list[_Draw]:
        return [draw for call in self.calls for draw in call]


class Scheduler:
    """A Model over a backend.

    Calls with an equal request are one draw. A caller that goes away takes with it what only it waited for, up to the
    wire. An error is raised in the callers whose draw it befell and in no other.

    Counters for observers: `wire_requests`, `draws` (asked of the backend), `retries`, `in_flight`, `waiting`;
    `on_answered` is told of each draw and the seconds that the wire request it came by took.
    """

    def __init__(self, backend: Backend, *, limits: Limits | None = None, retry: RetryPolicy | None = None) -> None:
        self.backend = backend
        self.retry = retry or RetryPolicy()
        limits = limits or Limits()
        can = backend.capabilities
        self.max_n = can.max_n
        self.admission = Admission(limits, can.max_in_flight, self.retry, backend.name)
        self.admission.watch(self._wake, lambda: self._queue[0].age if self._drop_abandoned() else None)
        self._quiet_turns = _QUIET_TURNS_BATCHING if can.max_batch > 1 else _QUIET_TURNS if can.max_n > 1 else 0
        self._order = count(1)
        self.draws = self.retries = 0
        self.on_answered: Callable[[Request, float], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bind(None)

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Forget what belonged to an event loop that is gone; limits and counters stay."""
        self._loop = loop
        if loop is not None:
            self.admission.bind(loop)
        self._known: dict[Request, _Draw] = {}
        self._queue: list[_Draw] = []
        self._siblings: dict[Request, deque[_Draw]] = {}  # waiting draws by question
        self._loads: set[_Load] = set()
        self._turns = self._quiet = 0
        self._seen = self._arrivals = 0
        self._waking = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def max_in_flight(self) -> int:
        """Wire requests allowed at once, when the server is not overloaded."""
        return self.admission.ceiling

    @property
    def wire_requests(self) -> int:
        return self.admission.sent

    @property
    def in_flight(self) -> int:
        return len(self._loads)

    @property
    def waiting(self) -> int:
        return len(self._known) - sum(len(load.draws()) for load in self._loads)

    def has_under_way(self, request: Request) -> bool:
        """Whether this very draw is already waited for, so that asking for it costs nothing."""
        return request in self._known

    def is_gathering(self, question: Request) -> bool:
        """Whether one more draw of the question would leave with others, in a wire request that is not sent yet."""
        siblings = self._siblings.get(question)
        return siblings is not None and siblings[-1].queued and len(siblings) % self.max_n > 0

    async def __call__(self, request: Request) -> Completion:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        sink = scope.deltas.get() if self.backend.capabilities.stream else None
        draw = self._known.get(request)
        if draw is None or (sink is not None and draw.sink is not sink):
            draw = _Draw(request, scope.age.get(), next(self._order), sink)
            self._known[request] = draw
            self._enqueue(draw)
        if draw.done is not None:
            return draw.done.cached()
        future: Future[Completion] = loop.create_future()
        draw.waiters.append(future)
        try:
            completion = await future
            self._forget(draw)
            return completion
        except asyncio.CancelledError:
            draw.waiters.remove(future)
            if not draw.waiters:
                self._abandon(draw)
            raise

    # Waiting

    def _enqueue(self, draw: _Draw) -> None:
        draw.queued = True
        heapq.heappush(self._queue, draw)
        if self._can_fuse(draw):
            self._siblings.setdefault(draw.request.question(), deque()).append(draw)
        self._arrivals += 1
        self._wake()

    def _can_fuse(self, draw: _Draw) -> bool:
        # A seed names one draw: k draws of one wire request could not be told apart by theirs.
        return self.max_n > 1 and draw.sink is None and draw.request.params.seed is None

    def _abandon(self, draw: _Draw) -> None:
        """Nobody waits for this draw any more."""
        draw.queued = False
        self._forget(draw)
        load = draw.load
        if load is not None and load.task is not None and not any(d.waiters for d in load.draws()):
            load.task.cancel()

    def _wake(self) -> None:
        if not self._waking and self._loop is not None:
            self._waking = True
            self._turns = self._quiet = 0
            self._seen = self._arrivals
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send what may be sent, once nothing else can run without an answer."""
        assert self._loop is not None
        if self._seen != self._arrivals:
            self._seen, self._quiet = self._arrivals, 0
        if self._quiet < self._quiet_turns and self._turns < _MOST_TURNS:
            self._turns += 1
            self._quiet += 1
            self._loop.call_soon(self._dispatch)
            return
        self._waking = False
        now = self._loop.time()
        while self._drop_abandoned():
            try:
                wait = self.admission.wait(now)
            except ModelError as parked:
                self.refuse_waiting(parked)
                return
            if wait is None:
                return
            if wait > 0:
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = self._loop.call_later(wait, self._wake)
                return
            self._send(self._take(), now)
        self.admission.give_turn()

    def _drop_abandoned(self) -> bool:
        while self._queue and not self._queue[0].queued:
            heapq.heappop(self._queue)
        return bool(self._queue)

    def refuse_waiting(self, error: ShoalError) -> None:
        """Raise `error` in the callers of all draws not sent yet."""
        while self._drop_abandoned():
            self._finish(heapq.heappop(self._queue), error)

    # Sending

    def _take(self) -> list[list[_Draw]]:
        """The oldest draws that fit one wire request: up to max_batch questions, up to max_n draws of each."""
        calls: list[list[_Draw]] = []
        put_back: list[_Draw] = []
        room = self.backend.capabilities.max_batch
        while len(calls) < room and len(put_back) < _LOOK_PAST * room and self._drop_abandoned():
            draw = heapq.heappop(self._queue)
            if calls and (draw.alone or draw.sink or not self._may_share(calls[0][0].request, draw.request)):
                put_back.append(draw)
                continue
            calls.append(self._with_siblings(draw))
            if draw.alone or draw.sink:
                break
        for draw in put_back:
            heapq.heappush(self._queue, draw)
        return calls

    def _with_siblings(self, draw: _Draw) -> list[_Draw]:
        draw.queued = False
        call = [draw]
        if self._can_fuse(draw):
            question = draw.request.question()
            siblings = self._siblings.get(question, deque())
            while siblings and len(call) < self.max_n:
                sibling = siblings.popleft()
                if sibling.queued:
                    sibling.queued = False
                    call.append(sibling)
            if not siblings:
                self._siblings.pop(question, None)
        return call

    def _may_share(self, first: Request, other: Request) -> bool:
        """Whether two questions can go in one wire request."""
        if first.params != other.params or first.tools != other.tools:
            return False
        if self.backend.capabilities.batch_chat:
            return True
        return first.prompt is not None and other.prompt is not None

    def _send(self, calls: list[list[_Draw]], now: float) -> None:
        assert self._loop is not None
        counted = calls if self.admission.counts_tokens else []
        tokens = sum(expected_tokens(call[0].request, len(call)) for call in counted)
        load = _Load(calls, self.admission.enter(tokens), now)
        for draw in load.draws():
            draw.load = load
            draw.attempts += 1
            draw.deadline = draw.deadline or now + self.retry.deadline
        self._loads.add(load)
        load.task = self._loop.create_task(self._carry(load))
        load.task.add_done_callback(lambda _: self._over(load))  # one cancelled before its first step never runs

    async def _carry(self, load: _Load) -> None:
        """Ask the backend, then hand each draw its own outcome."""
        outcomes: Sequence[Outcome | ShoalError] = []
        try:
            async with asyncio.timeout_at(min(draw.deadline for draw in load.draws())):
                outcomes = await self._ask(load)
        except TimeoutError:
            late = f"no whole answer within {self.retry.deadline:g} s"
            outcomes = [DeadlineExceeded(late, endpoint=self.backend.name, retryable=False)] * len(load.calls)
        except ShoalError as error:  # a model's, or a full disk's, which is the callers' too
            outcomes = [error] * len(load.calls)
        except Exception as error:  # noqa: BLE001 - a fault in a backend must reach its callers, not hang them
            fault = EngineError(f"{type(error).__name__}: {error}", endpoint=self.backend.name)
            fault.__cause__ = error
            outcomes = [fault] * len(load.calls)
        finally:
            load.slot.used = sum(one.usage.total_tokens for each in outcomes if isinstance(each, list) for one in each)
            self._over(load)
        for call, outcome in zip(load.calls, outcomes, strict=True):
            for draw in call:
                draw.load = None
            if isinstance(outcome, list):
                self._answered(load, call, outcome)
            elif isinstance(outcome, ModelError):
                self._failed(load, call, outcome)
            else:
                self._finish_all(call, outcome)

    def _over(self, load: _Load) -> None:
        if load in self._loads:
            self._loads.remove(load)
            self.admission.leave(load.slot)

    async def _ask(self, load: _Load) -> list[Outcome]:
        first = load.calls[0][0]
        if first.sink is None:
            batch = [Draws(c[0].request, len(c), tuple(d.request.sample for d in c), c[0].age) for c in load.calls]
            return await self.backend.generate(batch)
        emitted = False
        try:
            async for piece in self.backend.stream(first.request):
                if isinstance(piece, Completion):
                    return [[piece]]
                emitted = True
                first.sink(piece)
        except ModelError as error:
            if emitted:  # the reader has seen a part: a second try would show it twice
                error.retryable = False
            raise
        raise MalformedResponse("the stream ended without a whole answer", endpoint=self.backend.name)

    # Outcomes

    def _answered(self, load: _Load, call: list[_Draw], completions: list[Completion]) -> None:
        self.draws += len(completions)
        self.admission.succeeded()
        if not completions:
            self._finish_all(call, MalformedResponse("no answer in the reply", endpoint=self.backend.name))
            return
        if len(completions) < len(call):  # the server gives fewer draws a request than asked: believe it from now on
            self.max_n = len(completions)
            for draw in call[len(completions) :]:
                draw.attempts -= 1
                if draw.waiters:
                    self._enqueue(draw)
        for draw, completion in zip(call, completions, strict=False):
            if self.on_answered is not None:
                self.on_answered(draw.request, asyncio.get_running_loop().time() - load.sent)
            self._finish(draw, completion)

    def _failed(self, load: _Load, call: list[_Draw], error: ModelError) -> None:
        assert self._loop is not None
        now = self._loop.time()
        self.admission.failed(error, load.slot, now)
        live = [draw for draw in call if draw.waiters]
        if not live:
            return
        if isinstance(error, BadRequest) and len(load.calls) > 1:  # one bad prompt fails alone
            for draw in live:
                draw.alone = True
                draw.attempts -= 1
                self._enqueue(draw)
            return
        first = live[0]
        delay = self.admission.retry_delay(error, first.attempts, first.deadline - now)
        if delay is None:
            self._finish_all(live, error)
        else:
            self.retries += 1
            self._loop.call_later(delay, self._again, live)

    def _again(self, draws: list[_Draw]) -> None:
        for draw in filter(lambda draw: draw.waiters, draws):
            self._enqueue(draw)

    def _finish_all(self, draws: list[_Draw], error: ShoalError) -> None:
        for draw in draws:
            self._finish(draw, copy(error))  # one exception object must not collect the tracebacks of many callers

    def _finish(self, draw: _Draw, outcome: Completion | ShoalError) -> None:
        """The first waiter pays; the others shared its draw for nothing."""
        draw.queued = False
        paid = False
        for future in draw.waiters:
            if future.done():
                continue
            if isinstance(outcome, Completion):
                future.set_result(outcome.cached() if paid else outcome)
            else:
                future.set_exception(copy(outcome) if paid else outcome)
            paid = True
        # Known until a waiter had its turn, and a cache above it the answer: nobody asks it again meanwhile.
        draw.done = outcome if paid and isinstance(outcome, Completion) else None
        if draw.done is None:
            self._forget(draw)

    def _forget(self, draw: _Draw) -> None:
        if self._known.get(draw.request) is draw:
            del self._known[draw.request]
