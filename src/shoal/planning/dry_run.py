"""Stand-ins for base models: they fuse and wait as the models would, say something, ask nobody, and count."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from zlib import crc32

from msgspec import Struct, field, structs

from shoal.backends import BaseModel
from shoal.backends.embedded import EmbeddedBackend
from shoal.backends.vllm import VllmBackend
from shoal.errors import BudgetExceeded, NotCached
from shoal.planning.replies import Replies, longest
from shoal.runtime import dry, replay, scope
from shoal.runtime.backend import Draws, Outcome, scores
from shoal.runtime.cache import draw_key, question_key
from shoal.runtime.limits import Limits, estimated_tokens
from shoal.runtime.model import Model, Observed
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Completion, Delta, Request, Usage

# A draw kept by an earlier run, by the model's identity and its key; None where there is none.
Kept = Callable[[bytes], Completion | None]
_QUIET_TURNS = 64  # of the event loop: twice what a scheduler waits at the most, so that all that can leave has left
_UNLIMITED = 1 << 30
_PATIENT = RetryPolicy(deadline=3600.0)
_MOST_CALLS, _LONGEST_PATH = 100_000, 3_000  # of one row
_COUNTED = 1000  # prompts that a tokenizer is asked to count


class Followed(Struct):
    """What one piece of work asked, by the model's name: draws to be paid, draws had for nothing, steps it waited.

    `asked` counts what it asked in all, draws that it had before included.
    """

    asked: int = 0
    paid: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    steps: set[int] = field(default_factory=set)

    def count(self) -> None:
        """One more; BudgetExceeded where it looks as if there were no end."""
        self.asked += 1
        if self.asked > _MOST_CALLS or self.path > _LONGEST_PATH:
            raise BudgetExceeded("there is no end to its calls: it may wait for a reply that a stand-in never gives")

    @property
    def path(self) -> int:
        """Calls one after another, where nothing else held it up."""
        return len(self.steps)


current: ContextVar[Followed | None] = ContextVar("followed", default=None)


@contextmanager
def following() -> Iterator[Followed]:
    """Count what the body asks of stand-ins."""
    followed = Followed()
    with scope.setting(current, followed):
        yield followed


class Tally(Struct):
    """What one model was asked in a dry run.

    `prompts` counts questions in wire requests (draws that leave together share a prompt) and `characters` theirs;
    `requests` are such questions, all of them or some, chosen by chance. `longest` is the sum of what replies may be
    at the longest, in tokens, `longest_one` the most of one reply, `unlimited` how many draws set no limit.
    """

    calls: int = 0
    kept: int = 0
    wire_requests: int = 0
    prompts: int = 0
    characters: int = 0
    longest: int = 0
    longest_one: int = 0
    unlimited: int = 0
    requests: list[Request] = field(default_factory=list)


class Clock:
    """Time in steps: all that waits is answered together once nothing else can go on."""

    def __init__(self) -> None:
        self.steps = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._quiet = 0
        self._watching = False

    def stir(self) -> None:
        """Something goes on."""
        self._quiet = 0

    async def step(self) -> None:
        """Wait for the end of this step."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        self._waiting.append(over)
        self.stir()
        if not self._watching:
            self._watching = True
            loop.call_soon(self._watch, loop)
        await over

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quiet += 1
        if self._quiet < _QUIET_TURNS:
            loop.call_soon(self._watch, loop)
            return
        self._watching = False
        waiting, self._waiting = self._waiting, []
        live = [over for over in waiting if not over.done()]
        self.steps += bool(live)
        for over in live:
            over.set_result(None)


class DryRun:
    """While `on()` is entered, stand-ins answer for all base models, whatever asks them; `tallies` says what came.

    `wide` lets any number of wire requests be under way at once, so that `Followed.path` is the critical path of each
    piece of work; otherwise they wait as for the models, and `clock.steps` is how long the whole takes. `kept` are
    draws of earlier runs, which come for nothing as those in a model's own cache do, and so does a draw that this run
    has had before.
    """

    def __init__(self, replies: Replies, *, kept: Sequence[Kept] = (), wide: bool = False) -> None:
        self.replies = replies
        self.kept = tuple(kept)
        self.wide = wide
        self.clock = Clock()
        self.bases: dict[str, BaseModel] = {}
        self.tallies: dict[str, Tally] = {}
        self._stand_ins: dict[int, _StandIn] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        with scope.setting(dry.stand_in, self.stand_in), scope.setting(replay.current, None):
            yield

    def stand_in(self, base: BaseModel) -> "_StandIn":
        """What answers for a model in this run."""
        if id(base) not in self._stand_ins:
            self.bases[base.name] = base
            tally = self.tallies.setdefault(base.name, Tally())
            self._stand_ins[id(base)] = _StandIn(base, self, tally)
        return self._stand_ins[id(base)]


class _StandIn:
    """Answers for one base model."""

    def __init__(self, base: BaseModel, run: DryRun, tally: Tally) -> None:
        self.base = base  # held, so that its id stays its own
        self._run = run
        self._tally = tally
        limits = Limits(max_in_flight=_UNLIMITED if run.wide else base.scheduler.max_in_flight)
        self._scheduler = Scheduler(_Backend(base, run, tally), limits=limits, retry=_PATIENT)
        self._known: dict[bytes, Completion] = {}
        self._model: Model = Observed(self._answer, base.name)

    async def __call__(self, request: Request, /) -> Completion:
        return await self._model(request)

    async def _answer(self, request: Request) -> Completion:
        self._run.clock.stir()
        followed = current.get()
        if followed is not None:
            followed.count()
        question, _ = question_key(self.base.backend.identity, request)
        key = draw_key(question, request.sample)
        if (known := self._known.get(key)) is not None:
            return known
        if (had := self._had(key)) is not None:
            self._known[key] = had.cached()
            self._tally.kept += 1
            if followed is not None:
                followed.kept[self.base.name] = followed.kept.get(self.base.name, 0) + 1
            return had.cached()
        if replay.offline.get():
            raise NotCached(f"not asked before in this dry run: {request.text[-200:]!r}")
        completion = await self._scheduler(request)
        self._known[key] = completion.cached()
        if followed is not None:
            followed.steps.add(self._run.clock.steps)
            followed.paid[self.base.name] = followed.paid.get(self.base.name, 0) + completion.usage.calls
        return completion

    def _had(self, key: bytes) -> Completion | None:
        places = self._run.kept if self.base.cache is None else (*self._run.kept, self.base.cache.get)
        return next((had for kept in places if (had := kept(key)) is not None), None)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors that tell texts apart and mean nothing."""
        return [[1.0, 1.0 / (1 + crc32(text.encode()))] for text in texts]

    async def count_tokens(self, request: Request) -> int:
        return estimated_tokens(prompt_characters(request))


class _Backend:
    """A backend that can do what another can, and asks nobody."""

    def __init__(self, base: BaseModel, run: DryRun, tally: Tally) -> None:
        self._base = base
        self.name = base.name
        self.identity = base.backend.identity
        most = base.scheduler.max_n if isinstance(base.scheduler, Scheduler) else base.backend.capabilities.max_n
        self.capabilities = structs.replace(base.backend.capabilities, stream=False, max_n=most)
        self._run = run
        self._tally = tally
        self._chance = Random(0)

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        self._tally.wire_requests += 1
        for draws in batch:
            self._count(draws)
        await self._run.clock.step()
        return [self._replies(draws) for draws in batch]

    def _replies(self, draws: Draws) -> Outcome:
        replies = [self._reply(request) for request in each_of(draws)]
        paid = self._paid(draws)
        return [*replies[:paid], *(replies[0].cached() for _ in replies[paid:])]

    def _paid(self, draws: Draws) -> int:
        """Of draws that leave together, how many are made; what leaves no choice is drawn once."""
        once = isinstance(self._base.backend, EmbeddedBackend | VllmBackend)
        greedy = once and draws.request.params.temperature == 0
        return 1 if greedy or scores(draws.request) else draws.n

    def _reply(self, request: Request) -> Completion:
        return structs.replace(self._run.replies(request), usage=Usage(calls=1), model=self.name)

    def _count(self, draws: Draws) -> None:
        tally, request, paid = self._tally, draws.request, self._paid(draws)
        tally.calls += paid
        tally.prompts += 1
        tally.characters += prompt_characters(request)
        if len(tally.requests) < _COUNTED:
            tally.requests.append(request)
        elif (place := self._chance.randrange(tally.prompts)) < _COUNTED:
            tally.requests[place] = request
        limit = 0 if scores(request) else longest(request.params)
        tally.longest += paid * limit
        tally.longest_one = max(tally.longest_one, limit)
        tally.unlimited += paid * (request.params.max_tokens is None and not request.params.choices)

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        """Never asked: it says that it cannot."""
        yield self._reply(request)

    async def aclose(self) -> None:
        pass


def each_of(draws: Draws) -> list[Request]:
    """The requests of draws that leave together, each with its name."""
    if draws.n == 1:
        return [draws.request]
    return [structs.replace(draws.request, sample=path) for path in draws.samples]


def prompt_characters(request: Request) -> int:
    """The length of all that a model reads of a request."""
    return (
        len(request.prompt or "")
        + sum(len(message.text) for message in request.messages)
        + sum(len(tool.text) for tool in request.tools)
    )
