"""The steps of a run under way, so that a run whose budget is spent ends without cutting one off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from shoal.errors import BudgetExceeded

T = TypeVar("T")


class Steps:
    """Steps (a question, a prompt being written) of which each may make several calls.

    Where the budget is spent, a step that needs more waits for ever, and none begins; `unless_spent` ends once none is
    under way that could still finish, so that every call that was made is kept. `questions` counts those answered.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.questions = 0
        self._stopped: BudgetExceeded | None = None
        self._quiet = asyncio.Event()

    async def do(self, step: Coroutine[Any, Any, T]) -> T:
        """The result of a step, unless there is no budget for it: then the run ends and nobody waits for this."""
        if self._stopped is not None:
            step.close()
            await asyncio.Event().wait()
        self.under_way += 1
        try:
            return await step
        except BudgetExceeded as error:
            self._stopped = self._stopped or error
        finally:
            self.under_way -= 1
            if self._stopped is not None and not self.under_way:
                self._quiet.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def unless_spent(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work made of steps; BudgetExceeded when the budget is spent, and nothing is under way."""
        working, quiet = asyncio.ensure_future(work), asyncio.ensure_future(self._quiet.wait())
        try:
            await asyncio.wait((working, quiet), return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and self._stopped is not None:
                raise self._stopped
            return working.result()
        finally:
            working.cancel()
            quiet.cancel()
            await asyncio.wait((working, quiet))
