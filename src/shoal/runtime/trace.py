"""What a run tells its observers: a tree of spans, and the chain of calls that its wall time is made of."""

from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter, time
from typing import Literal, Protocol, Self, TypeVar

from shoal.runtime.scope import setting
from shoal.runtime.types import Completion, Request, Usage, total

Kind = Literal["program", "builtin", "parallel", "technique", "call"]


class _Node(Protocol):
    """What a tree of calls is read by, be it a Span at work or one that was kept."""

    @property
    def kind(self) -> Kind: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def completion(self) -> Completion | None: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def children(self) -> Sequence[Self]: ...
    def calls(self) -> list[Self]: ...


N = TypeVar("N", bound=_Node)


class Tree:
    """What can be said of any tree of calls."""

    __slots__ = ()

    @property
    def seconds(self: _Node) -> float:
        return self.end - self.start

    def calls(self: N) -> list[N]:
        """The model calls below, in the order in which they were made."""
        if self.kind == "call":
            return [self]
        return [call for child in self.children for call in child.calls()]

    @property
    def usage(self: _Node) -> Usage:
        """What was spent below, failed and unused branches included."""
        return total(call.completion.usage for call in self.calls() if call.completion)

    def critical_path(self: N) -> list[N]:
        """The calls, one after another, that the wall time is made of: from its end, always the one that ended last.

        Nobody waited for a cancelled call: it ended because something else did.
        """
        path: list[N] = []
        until = self.end
        for call in sorted(self.calls(), key=lambda call: call.end, reverse=True):
            if call.end <= until and not call.cancelled:
                path.append(call)
                until = call.start
        return path[::-1]


class Span(Tree):
    """One call, technique or program: what it was asked, what came of it, when (seconds of a monotonic clock).

    A program has `arguments` and a `result` where a call has a request and a completion. `began` is the root's start by
    the wall clock, in seconds since 1970. `watch` is called with each span below, and this one, as it starts (its
    `end` is 0.0 then) and as it ends.
    """

    __slots__ = (
        "arguments",
        "began",
        "children",
        "completion",
        "end",
        "error",
        "kind",
        "name",
        "request",
        "result",
        "start",
        "watch",
    )

    def __init__(self, name: str, kind: Kind, request: Request | None = None) -> None:
        self.name = name
        self.kind = kind
        self.request = request
        self.arguments: dict[str, object] | None = None
        self.completion: Completion | None = None
        self.result: object = None
        self.error: BaseException | None = None
        self.began = self.start = self.end = 0.0
        self.children: list[Span] = []
        self.watch: Callable[[Span], None] | None = None

    def child(self, name: str, kind: Kind, request: Request | None = None) -> "Span":
        span = Span(name, kind, request)
        span.watch = self.watch
        self.children.append(span)
        return span

    @contextmanager
    def timed(self) -> Iterator[None]:
        self.start = perf_counter()
        if self.watch is not None:
            self.watch(self)
        try:
            yield
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.end = perf_counter()
            if self.watch is not None:
                self.watch(self)
                self.watch = None  # who watches often holds the tree: all of it would wait for the garbage collector

    @property
    def cached(self) -> bool:
        return self.completion is not None and self.completion.usage.calls == 0

    @property
    def cancelled(self) -> bool:
        """It did not fail by itself: its answer was no longer wanted."""
        return isinstance(self.error, CancelledError)


current: ContextVar[Span | None] = ContextVar("span", default=None)


@contextmanager
def tracing(name: str = "run", watch: Callable[[Span], None] | None = None) -> Iterator[Span]:
    """Record the calls made in the body: `with tracing() as root: await model(request)`.

    `watch` is told of each span as it starts and ends, see `Span`.
    """
    root = Span(name, "program")
    root.watch = watch
    root.began = time()
    with setting(current, root), root.timed():
        yield root
