"""The one idea: a Model is an async callable from a Request to a Completion, and a technique on a Model is a Model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Concatenate, Protocol

from msgspec import structs

from shoal.errors import UsageError
from shoal.runtime import registry, scope, trace
from shoal.runtime.concurrency import gather
from shoal.runtime.types import Completion, Delta, Message, Request, SamplingParams, turns


class Model(Protocol):
    """Anything that answers a Request: a backend behind its scheduler, a cache around one, a technique on one."""

    async def __call__(self, request: Request, /) -> Completion: ...


Technique = Callable[Concatenate[Model, Request, ...], Awaitable[Completion]]


class Applied:
    """A technique on a model: itself a Model. Made by `apply`."""

    def __init__(self, technique: Technique, model: Model, options: Mapping[str, Any]) -> None:
        self.technique = technique
        self.model = model
        self.options = dict(options)

    async def __call__(self, request: Request | str, /) -> Completion:
        if isinstance(request, str):
            request = Request.of(request)
        sink = scope.deltas.get()
        if sink is None and scope.answer_sink.get() is None:
            return await self._traced(request)
        # Only a call in tail position (see `answer`) may stream, and only where this call itself is one.
        with scope.setting(scope.deltas, None), scope.setting(scope.answer_sink, sink):
            return await self._traced(request)

    async def _traced(self, request: Request) -> Completion:
        parent = trace.current.get()
        if parent is None:
            return await self.technique(self.model, request, **self.options)
        span = parent.child(self.name, "technique", request)
        with scope.setting(trace.current, span), span.timed():
            span.completion = await self.technique(self.model, request, **self.options)
        return span.completion

    def register(self) -> None:
        """Make this the model that built-ins ask, in the registry that holds here."""
        registry.current().register(self)

    @property
    def name(self) -> str:
        """The technique and the options it was given, as a spec writes them."""
        return shown(partial(self.technique, **self.options))

    def __repr__(self) -> str:
        return f"{self.name}@{self.model!r}"


def shown(value: object) -> str:
    """An option as a spec writes it: the same in every process, so that runs can be compared by it."""
    if isinstance(value, partial):
        written = getattr(value.func, "written", None)  # made of techniques, with a form of its own in a spec
        if written is not None:
            return str(written(**value.keywords))
        options = ", ".join(f"{name}={shown(option)}" for name, option in value.keywords.items())
        return f"{shown(value.func)}({options})" if options else shown(value.func)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return getattr(value, "__qualname__", None) or repr(value)


def apply(technique: Technique, model: Model, **options: Any) -> Applied:
    """`technique` on `model`, as a Model: `apply(best_of_n, model, n=4)`."""
    return Applied(technique, model, options)


async def sample(model: Model, request: Request, n: int, *, start: int = 0) -> list[Completion]:
    """Draws number `start` to `start + n - 1` of one question, asked at once.

    Asking for 8 where 5 are cached costs 3 calls. One failed draw fails the whole: the others are kept in the cache.
    """
    if n < 1:
        raise UsageError(f"n={n}: at least one sample is needed")
    return await gather(*(model(request.draw(i)) for i in range(start, start + n)))


def then(request: Request, reply: str, follow_up: str, **params: Any) -> Request:
    """The conversation continued: the model's reply, then a new user turn. Sampling parameters may be changed.

    A bare prompt is continued as text.
    """
    if request.prompt is not None:
        continued = structs.replace(request, prompt=f"{request.prompt}{reply}\n\n{follow_up}\n\n")
    else:
        turns_ = (*request.messages, Message("assistant", reply), Message("user", follow_up))
        continued = structs.replace(request, messages=turns_)
    return continued.with_params(**params) if params else continued


def ask(request: Request, text: str, *, system: str | None = None, params: SamplingParams | None = None) -> Request:
    """A fresh question put on behalf of `request`.

    It inherits the draw's name, so that two draws that put the same side question (to a judge, say) get independent
    answers.
    """
    return Request(messages=turns(text, system), params=params or SamplingParams(), sample=request.sample)


async def answer(model: Model, request: Request) -> Completion:
    """`model(request)` in tail position: the call whose text is the answer, and whose deltas therefore stream."""
    sink = scope.answer_sink.get()
    if sink is None:
        return await model(request)
    with scope.setting(scope.deltas, sink):
        return await model(request)


async def stream(model: Model, request: Request) -> AsyncIterator[Delta | Completion]:
    """The answer's deltas as they come, then the whole Completion.

    Where none of the text streams (a cached draw, a vote, a backend that cannot), one delta holds the whole of it.
    """
    pieces: asyncio.Queue[Delta | Completion | None] = asyncio.Queue()
    with scope.setting(scope.deltas, pieces.put_nowait):
        task = asyncio.ensure_future(model(request))
    task.add_done_callback(lambda _: pieces.put_nowait(None))
    streamed = False
    try:
        while (piece := await pieces.get()) is not None:
            streamed = streamed or (isinstance(piece, Delta) and bool(piece.text.strip()))
            yield piece
        completion = task.result()
        if not streamed:
            yield Delta(completion.text)
        yield completion
    finally:
        task.cancel()


class Observed:
    """A Model that shows its calls to the trace, where there is one."""

    def __init__(self, model: Model, name: str) -> None:
        self.model = model
        self.name = name

    async def __call__(self, request: Request, /) -> Completion:
        parent = trace.current.get()
        if parent is None:
            return await self.model(request)
        span = parent.child(self.name, "call", request)
        with span.timed():
            span.completion = await self.model(request)
        return span.completion
