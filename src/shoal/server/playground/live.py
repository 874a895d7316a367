"""A call tree told while it grows: the events that the page draws."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from shoal.errors import ShoalError
from shoal.prompting.answers import extract, normalise
from shoal.runtime import scope
from shoal.runtime.model import Model
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Completion, Delta, Request
from shoal.server.playground.advice import failure
from shoal.server.playground.rendering import rendered
from shoal.server.records import log_fault
from shoal.traces import words

Event = dict[str, Any]
_PAUSE = 0.05  # seconds between two batches of events, at the least


async def events(
    model: Model, request: Request, within: AbstractAsyncContextManager[object]
) -> AsyncGenerator[list[Event], None]:
    """What happens while `model` answers `request`, in batches; the last event is an `answer` or `failed`.

    `within` is entered around the work: its budget, its caller's realm. Leaving the generator cancels the work.
    """
    told = TreeEvents(request)

    async def work() -> Completion:
        async with within:
            with tracing("run", told.on_span) as told.root, scope.setting(scope.deltas, told.on_delta):
                return await model(request)

    task = asyncio.ensure_future(work())
    task.add_done_callback(lambda _: told.news.set())
    try:
        while not task.done():
            await told.news.wait()
            yield told.take()
            await asyncio.wait([task], timeout=_PAUSE)
        yield [*told.take(), await _outcome(task, told)]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _outcome(task: "asyncio.Task[Completion]", told: "TreeEvents") -> Event:
    try:
        completion = task.result()
    except ShoalError as error:
        return {"event": "failed", **failure(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the page is told, and the log
        log_fault("a run of the playground failed", error)
        what = {"type": type(error).__name__, "meaning": "The server has a problem of its own", "message": ""}
        return {"event": "failed", **what, "advice": "Run again; if it keeps failing, the server's log says more."}
    return await told.answer(completion)


class TreeEvents:
    """The spans of one tree as events, each with a number; what has not been taken yet is kept."""

    def __init__(self, request: Request) -> None:
        self.news = asyncio.Event()
        self.root: Span | None = None
        self._request = request
        self._numbers: dict[Span, int] = {}
        self._open: list[Span] = []  # what may get children
        self._prompts: dict[object, int] = {}
        self._events: list[Event] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []

    def take(self) -> list[Event]:
        """The events since the last time, at most one of them a delta."""
        self.news.clear()
        taken, self._events = self._events, []
        if self._text or self._reasoning:
            taken.append({"event": "delta", "text": "".join(self._text), "reasoning": "".join(self._reasoning)})
            self._text, self._reasoning = [], []
        return taken

    def on_delta(self, delta: Delta) -> None:
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self.news.set()

    def on_span(self, span: Span) -> None:
        if span.end:
            self._ended(span)
        else:
            self._started(span)
        self.news.set()

    def _started(self, span: Span) -> None:
        parent = next((above for above in self._open if above.children and above.children[-1] is span), None)
        self._numbers[span] = len(self._numbers)
        if span.kind != "call":
            self._open.append(span)
        if parent is None:  # the root, which only holds the others together
            return
        self._events.append(
            {
                "event": "started",
                "id": self._numbers[span],
                "parent": self._numbers[parent],
                "name": span.name,
                "kind": span.kind,
                "at": self._at(span.start),
                "prompt": self._prompt(span.request) if span.request is not None else None,
                "question": words.short(span.request.text, 160) if span.request is not None else "",
                "draw": list(span.request.sample) if span.request is not None else [],
                "candidate": self._is_candidate(span, parent),
            }
        )

    def _prompt(self, request: Request) -> int:
        """The number of a conversation, which is told once."""
        key = (request.messages, request.prompt)
        if key not in self._prompts:
            self._prompts[key] = len(self._prompts)
            messages = [{"role": role, "text": text} for role, text in words.messages(request)]
            self._events.append({"event": "prompt", "prompt": self._prompts[key], "messages": messages})
        return self._prompts[key]

    def _is_candidate(self, span: Span, parent: Span) -> bool:
        """Whether this is an answer to the question itself, asked by the outermost technique."""
        return self._numbers[parent] == 1 and span.request is not None and span.request.text == self._request.text

    def _ended(self, span: Span) -> None:
        if span in self._open:
            self._open.remove(span)
        number = self._numbers[span]
        if number == 0:
            return
        event: Event = {"event": "finished", "id": number, "at": self._at(span.end), "cancelled": span.cancelled}
        completion = span.completion
        if completion is not None:
            event |= _reply(completion) | {"cached": span.cached, "usage": msgspec.to_builtins(completion.usage)}
        elif isinstance(span.error, ShoalError) and not span.cancelled:
            event["error"] = failure(span.error)["message"]
        elif span.error is not None and not span.cancelled:
            event["error"] = type(span.error).__name__
        self._events.append(event)

    def _at(self, time: float) -> float:
        return round(time - self.root.start, 4) if self.root is not None else 0.0

    async def answer(self, completion: Completion) -> Event:
        """The last event: all that is known of the answer, after its tree has ended."""
        root = self.root
        assert root is not None
        return {
            "event": "answer",
            **_reply(completion),
            "html": await asyncio.to_thread(rendered, completion.text),
            "confidence": completion.confidence,
            "usage": msgspec.to_builtins(root.usage),
            "alternatives": [_reply(alternative) for alternative in completion.alternatives],
            "critical_path": [self._numbers[span] for span in root.critical_path()],
            "seconds": round(root.seconds, 4),
        }


def _reply(completion: Completion) -> Event:
    """A reply as the page shows it: `short` is the answer it ends in, `form` what that is compared by."""
    short = completion.answer
    if short is None:
        short = extract(completion.text, cut_off=completion.finish_reason == "length")
    return {
        "text": completion.text or "\n".join(call.text for call in completion.tool_calls),
        "reasoning": completion.reasoning or "",
        "short": short,
        "form": None if short is None else normalise(short),
        "finish_reason": completion.finish_reason,
    }
