"""What late-bound built-ins find when they run: a model, and whose implementation stands behind each name."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shoal.errors import UsageError

if TYPE_CHECKING:
    from shoal.runtime.model import Model


class Binding(Struct, frozen=True):
    """An implementation, the arguments it knows (None: any), and those it gets where a call gives none."""

    implementation: Callable[..., Any]
    known: frozenset[str] | None
    defaults: Mapping[str, Any] = {}


class Registry:
    """A scope for models and implementations: `with shoal.Registry(): ...`.

    It begins as a copy of the one around it; what is registered or configured in it ends with it. It holds in tasks
    and threads that are started inside it.
    """

    def __init__(self) -> None:
        around = current()
        self._model: Model | None = around._model
        self._bindings: dict[str, Binding] = dict(around._bindings)

    @property
    def model(self) -> "Model":
        """The model that built-ins ask; UsageError where none has been named."""
        if self._model is None:
            raise UsageError(
                "no model: name one, as in shoal.run(program, model='local') or with shoal.using(model): ..."
            )
        return self._model

    def register(self, model: "Model") -> None:
        """Make `model` the one that built-ins ask."""
        self._model = model

    def bind(self, name: str, binding: Binding) -> None:
        self._bindings[name] = binding

    def binding(self, name: str) -> Binding | None:
        return self._bindings.get(name)

    def __enter__(self) -> "Registry":
        _follow_threads()
        _stack.set((*(_stack.get() or _inherited()), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack = _stack.get()
        if self in stack:  # not always the last: a generator that was left may still hold one
            _stack.set(stack[: len(stack) - 1 - stack[::-1].index(self)])


class _Root(Registry):
    """What is registered outside every scope: it holds everywhere."""

    def __init__(self) -> None:
        self._model = None
        self._bindings = {}


_ROOT = _Root()
_stack: ContextVar[tuple[Registry, ...]] = ContextVar("registries", default=())


def current() -> Registry:
    """The innermost scope here, or the one of the whole process."""
    around = _stack.get() or _inherited()
    return around[-1] if around else _ROOT


def copy_registry() -> Registry:
    """What holds here, as a registry of its own."""
    return Registry()


@contextmanager
def using(model: "Model") -> Iterator[Registry]:
    """Built-ins in the body ask `model`."""
    with Registry() as registry:
        registry.register(model)
        yield registry


def _inherited() -> tuple[Registry, ...]:
    return getattr(threading.current_thread(), "_shoal_registries", ())


def _follow_threads() -> None:
    """Let threads begin in the scope they are started in.

    A thread's context variables begin empty, and Python (before 3.14) offers nothing else to hang a scope on. So the
    scope is noted on the thread when it starts; nothing else about threads changes.
    """
    start = threading.Thread.start
    if getattr(start, "_notes_registries", False):
        return

    def noting_start(self: threading.Thread) -> None:
        pool = getattr(getattr(self, "_target", None), "__module__", "") == "concurrent.futures.thread"
        if not pool and (around := _stack.get() or _inherited()):  # a pool's thread serves many scopes
            self._shoal_registries = around  # type: ignore[attr-defined]
        start(self)

    noting_start._notes_registries = True  # type: ignore[attr-defined]
    threading.Thread.start = noting_start  # type: ignore[method-assign]
