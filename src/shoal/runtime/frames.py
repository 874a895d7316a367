"""Where a running program stands: it names the program's draws, so that neither timing nor order changes them.

A draw of a program is named by its request, by the indices of the `repeat` it runs in, and by how often the program
has asked the same before. Work that runs at once counts each for itself, from what was asked before it began: equal
questions asked at once are one draw, a question asked again is another.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from shoal.runtime import scope
from shoal.runtime.types import Request


class Frame:
    """One sequence of steps. `path` holds the indices of the repeats around it, `counts` what it has asked."""

    __slots__ = ("_parent", "counts", "path", "task")

    def __init__(
        self, path: tuple[int, ...] = (), task: "asyncio.Task[Any] | None" = None, parent: "Frame | None" = None
    ) -> None:
        self.path = path
        self.task = task
        self.counts: dict[int, int] = {}  # by hash, so that a long program does not keep its prompts
        self._parent = parent

    def named(self, request: Request) -> Request:
        """The request under the name of its next draw: a second time gets -1, a third -2."""
        key = hash((self.path + request.sample, request.question()))
        seen = self._seen(key)
        self.counts[key] = seen + 1
        return request.draw(-seen) if seen else request

    def _seen(self, key: int) -> int:
        frame: Frame | None = self
        while frame is not None:
            if key in frame.counts:
                return frame.counts[key]
            frame = frame._parent
        return 0

    def branch(self, *index: int) -> "Frame":
        """A frame for work beside others of this one's."""
        return Frame(self.path + index, parent=self)

    def frozen(self) -> "Frame":
        """A frame that has asked what this one has so far, and does not go on with it."""
        still = Frame(self.path)
        frame: Frame | None = self
        while frame is not None:
            still.counts = frame.counts | still.counts
            frame = frame._parent
        return still

    def join(self, branches: "Iterable[Frame]") -> None:
        """Go on after branches: what they asked has been asked."""
        for branch in branches:
            for key, count in branch.counts.items():
                self.counts[key] = max(self.counts.get(key, 0), count)


current: ContextVar[Frame | None] = ContextVar("frame", default=None)


@contextmanager
def entered(branch: Frame | None = None) -> Iterator[Frame]:
    """The frame for the body: `branch`, or that of this task, or a new one where there is none.

    A task that the program started by itself does not count along with it: which of the two is first is chance.
    """
    task = asyncio.current_task()
    frame = branch or current.get()
    if frame is None or (frame is not branch and frame.task is not task):
        frame = Frame(frame.path if frame else ())
    if frame.task is task:
        yield frame
        return
    frame.task = task
    token = current.set(frame)
    try:
        yield frame
    finally:
        current.reset(token)


def here() -> Frame | None:
    """The frame of this task, where it has one."""
    frame = current.get()
    return frame if frame is not None and frame.task is asyncio.current_task() else None


def placed(request: Request) -> Request:
    """The request in the caller's realm, with the indices of the repeats around the caller before its own path."""
    frame, realm = current.get(), scope.realm.get()
    path = frame.path if frame is not None else ()
    if not path and not realm:
        return request
    return Request(
        request.messages, request.prompt, request.params, request.tools, path + request.sample, realm or request.realm
    )
