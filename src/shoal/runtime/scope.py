"""What a running program carries without saying so: its age, its observers and its budget.

A scheduler's task has a context of its own, so all of this is read on the caller's side of the scheduler.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Protocol, TypeVar

from shoal.runtime.types import Completion, Delta, Request

if TYPE_CHECKING:
    from shoal.runtime.budget import Budget
    from shoal.runtime.trace import Span


T = TypeVar("T")


class Recorder(Protocol):
    """Keeps a program's finished draws, and gives them back when the program is run again."""

    def replay(self, identity: str, request: Request) -> Completion | None: ...

    async def record(self, identity: str, request: Request, completion: Completion) -> None: ...


age: ContextVar[int] = ContextVar("age", default=0)  # older programs (smaller) are served first
budget: "ContextVar[Budget | None]" = ContextVar("budget", default=None)
recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
span: "ContextVar[Span | None]" = ContextVar("span", default=None)
# Where the deltas of the very next call go, and where those of the call that gives the program's answer would go.
deltas: ContextVar[Callable[[Delta], None] | None] = ContextVar("deltas", default=None)
answer_sink: ContextVar[Callable[[Delta], None] | None] = ContextVar("answer_sink", default=None)


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set a context variable for the body."""
    token: Token[T] = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
