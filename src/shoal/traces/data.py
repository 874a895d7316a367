"""A finished call tree as plain data: it outlives its process, and everything that shows a trace reads it."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from shoal.errors import told
from shoal.runtime.trace import Kind, Span, Tree
from shoal.runtime.types import Completion, Request

_DEEPEST = 10  # how far into an argument or result a trace looks


class Failure(Struct, frozen=True):
    """An error as data: its type and its message."""

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        return cls(type(error).__name__, told(error))


class Trace(Tree, Struct, frozen=True, omit_defaults=True):
    """One call, technique or program, and what it called.

    `start` and `end` are seconds since the root's start, `began` is that start by the wall clock (seconds since 1970;
    of the root only). A call or technique has a `request` and, where it succeeded, a `completion` (without token
    log-probabilities); a program has `arguments` and a `result`, as JSON values. `cached`: it cost nothing.
    """

    name: str
    kind: Kind
    start: float = 0.0
    end: float = 0.0
    request: Request | None = None
    completion: Completion | None = None
    cached: bool = False
    error: Failure | None = None
    arguments: dict[str, Any] | None = None
    result: Any = None
    children: tuple["Trace", ...] = ()
    began: float = 0.0

    @property
    def cancelled(self) -> bool:
        """It did not fail by itself: its answer was no longer wanted."""
        return self.error is not None and self.error.type == "CancelledError"

    @property
    def failed(self) -> bool:
        return self.error is not None and not self.cancelled

    @classmethod
    def of(cls, span: "Span | Trace") -> "Trace":
        """The tree under a finished span. A Trace is given back as it is."""
        return span if isinstance(span, Trace) else _taken(span, span.start, span.end)


decode = msgspec.json.Decoder(Trace).decode
_encode = msgspec.json.Encoder().encode


def encode(trace: Trace) -> bytes:
    """The tree as JSON, whatever its texts: half a character, which JSON cannot hold, becomes a question mark."""
    try:
        return _encode(trace)
    except UnicodeEncodeError:
        return _encode(_writable(msgspec.to_builtins(trace)))


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list | tuple) else value


def _taken(span: Span, zero: float, last: float) -> Trace:
    completion = span.completion
    if completion is not None and completion.logprobs is not None:
        completion = structs.replace(completion, logprobs=None)
    # A call that outlives its program (a task nobody awaited) is shown up to the program's end.
    start, end = min(span.start or last, last), min(span.end or last, last)
    children = tuple(_taken(child, zero, last) for child in span.children)
    if span.kind == "builtin" and len(children) == 1 and _same(span, children[0]):
        return structs.replace(children[0], name=f"{span.name} · {children[0].name}")
    return Trace(
        span.name,
        span.kind,
        start=round(start - zero, 6),
        end=round(end - zero, 6),
        request=span.request,
        completion=completion,
        cached=span.cached,
        error=None if span.error is None else Failure.of(span.error),
        arguments=None if span.arguments is None else {name: plain(value) for name, value in span.arguments.items()},
        result=plain(span.result),
        children=children,
        began=span.began,
    )


def _same(builtin: Span, call: Trace) -> bool:
    """Whether a built-in came to no more than its one call did."""
    if call.kind != "call":
        return False
    if call.completion is None:
        return builtin.error is not None
    return builtin.error is None and plain(builtin.result) == call.completion.text


def plain(value: object, depth: int = 0) -> Any:
    """A value as JSON can hold it. What JSON has no word for is shown by its repr, which hides what its class hides."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Completion | Request):
        return value.text
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(item, depth + 1) for item in value]
    return repr(value)
