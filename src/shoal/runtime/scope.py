"""What a running program carries without saying so: its age, its realm, and where the deltas of its answer go.

A scheduler's task has a context of its own, so all of this is read on the caller's side of it. Budget, journal
and trace are carried the same way; each keeps its variable (`current`) beside what it is for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from shoal.runtime.types import Delta

T = TypeVar("T")

realm: ContextVar[str] = ContextVar("realm", default="")  # draws of different realms are never shared
age: ContextVar[int] = ContextVar("age", default=0)  # older programs (smaller) are served first

# Where the deltas of the very next call go, and where those of the call that gives the program's answer would go.
deltas: ContextVar[Callable[[Delta], None] | None] = ContextVar("deltas", default=None)
answer_sink: ContextVar[Callable[[Delta], None] | None] = ContextVar("answer_sink", default=None)


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set a context variable for the body."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
