"""One budget for many rows: how a technique that votes asks for its row's next samples.

A run that allocates sets `current` for each row. The outermost vote of the row then asks `more` before it samples,
sleeps until every unfinished row has asked or left, and is told how many samples it may take. The calls of a sample
run with `current` unset, so a vote within a vote asks nobody.
"""

from contextvars import ContextVar
from typing import Protocol

from msgspec import Struct

from shoal.errors import BudgetExceeded


class Wish(Struct, frozen=True):
    """What further samples are worth to a vote, and what one of their calls may cost.

    `gains` has the expected gain of each of the next samples, in their order, and at least one; every row gets a first
    sample whatever it gains. A call costs `prompt_tokens` at the least and `most_tokens` at the most, prompt included.
    """

    gains: tuple[float, ...]
    prompt_tokens: int
    most_tokens: int


class Share(Protocol):
    """A row's part in the budget."""

    @property
    def stopped(self) -> BudgetExceeded | None:
        """Why no vote may go on, where the whole run was stopped; a vote is then not to be counted as it stands."""

    async def more(self, wish: Wish) -> int:
        """How many samples to take now; 0 for none, ever. Raises BudgetExceeded where the run was stopped."""


current: ContextVar[Share | None] = ContextVar("allocation", default=None)
