"""A vote in a run that shares one budget out among its rows: samples are taken as the run gives them."""

from collections.abc import Awaitable, Callable, Sequence

from shoal.errors import BudgetExceeded
from shoal.runtime import allocation
from shoal.runtime.allocation import Share, Wish
from shoal.runtime.concurrency import gather
from shoal.runtime.limits import USUAL_COMPLETION, expected_tokens
from shoal.runtime.scope import setting
from shoal.runtime.types import Completion, Request
from shoal.techniques._gain import gains
from shoal.techniques._stopping import Vote

MOST = 4  # times n
_SURE = 0.999  # a vote without a rule of its own asks for no more from here on: 9 votes without dissent

Draw = Callable[[int], Awaitable[Completion]]


def vote_of_many(n: int, stop: str | None, confidence: float, ahead: int) -> Vote:
    """The vote of a row that may get more than n samples: up to four times as many."""
    return Vote(MOST * n, stop or "beta", confidence if stop else _SURE, ahead)


async def allocated(
    share: Share, request: Request, draw: Draw, read: Callable[[Sequence[Completion]], Sequence[object]], vote: Vote
) -> list[Completion]:
    """The samples that the run gives a vote, which `read` turns into votes.

    The vote asks until it is decided, or until a quarter of the most samples brought nothing that could be read.
    BudgetExceeded where it gets none, or the run is stopped.
    """
    samples: list[Completion] = []
    asked = 0
    while not vote.is_decided and (vote.counts or MOST * asked < vote.n):
        more = await share.more(_wish(request, vote, samples))
        found = await gather(*(_attempt(draw, i) for i in range(asked, asked + more)))
        asked += more
        new = [reply for reply in found if isinstance(reply, Completion)]
        samples += new
        for form in read(new):
            vote.add(form)
        if len(new) < more and share.stopped is not None:
            raise share.stopped
        if not new or len(new) < more:
            break
    if not samples:
        raise BudgetExceeded("the budget is spent: nothing is left for the first sample of this row")
    return samples


async def _attempt(draw: Draw, i: int) -> Completion | BudgetExceeded:
    """Sample i; a vote within it asks the run for nothing. What the budget does not allow ends no other sample."""
    try:
        with setting(allocation.current, None):
            return await draw(i)
    except BudgetExceeded as error:
        return error


def _wish(request: Request, vote: Vote, samples: Sequence[Completion]) -> Wish:
    """What the next samples are worth. Prompts are as long as they turned out to be, or as they look."""
    longest = request.params.max_tokens or USUAL_COMPLETION
    looks = expected_tokens(request) - longest
    was = max((sample.usage.prompt_tokens + sample.usage.cached_prompt_tokens for sample in samples), default=0)
    return Wish(gains(vote, vote.n // MOST), looks, max(looks, was) + longest)
