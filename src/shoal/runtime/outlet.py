"""What a program has so far: text as it comes, results of its branches; and the calls it makes."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from shoal.errors import UsageError
from shoal.runtime import frames, scope
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Delta, Request


class Piece(Struct, frozen=True):
    """Something a program has so far.

    `index` is its place among what runs at once: () for the program itself, (2,) for the third branch of a parallel or
    a repeat, (2, 0) for the first within that. `text` is new text of call number `step` of that place, or `result` is
    what that place came to.
    """

    index: tuple[int, ...] = ()
    step: int = 0
    text: str = ""
    result: Any = UNSET

    @property
    def finished(self) -> bool:
        return not isinstance(self.result, UnsetType)


class Outlet:
    """Where a program's partial results go."""

    __slots__ = ("_index", "_put", "_step")

    def __init__(self, put: Callable[[Piece], None], index: tuple[int, ...] = ()) -> None:
        self._put = put
        self._index = index
        self._step = 0

    def at(self, index: int) -> "Outlet":
        return Outlet(self._put, (*self._index, index))

    def finish(self, result: Any) -> None:
        self._put(Piece(self._index, result=result))

    async def call(self, model: Model, request: Request) -> Completion:
        """The model's answer, its text put out as it comes, or whole where nothing streams."""
        step, streamed = self._step, False
        self._step += 1

        def put(delta: Delta) -> None:
            nonlocal streamed
            streamed = True
            self._put(Piece(self._index, step, delta.text))

        with scope.setting(scope.deltas, put):
            completion = await model(request)
        if not streamed:
            self._put(Piece(self._index, step, completion.text))
        return completion

    def text(self, text: str) -> None:
        """Text that no model wrote."""
        self._put(Piece(self._index, self._step, text))
        self._step += 1


outlet: ContextVar[Outlet | None] = ContextVar("outlet", default=None)


async def call(model: Model, request: Request) -> Completion:
    """Ask a model on behalf of a program: the draw is counted, and its text streams where somebody listens."""
    with frames.entered() as frame:
        request = frame.named(request)
    around = outlet.get()
    return await (model(request) if around is None else around.call(model, request))


async def calls(model: Model, request: Request, n: int) -> list[Completion]:
    """`n` draws of a request on behalf of a program."""
    if n < 1:
        raise UsageError(f"n={n}: at least one draw is needed")
    with frames.entered() as frame:
        draws = [frame.named(request.draw(i)) for i in range(n)]
    return await gather(*map(model, draws))
