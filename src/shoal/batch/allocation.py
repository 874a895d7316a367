"""One budget for all rows: shared out among their votes in rounds.

A round is decided when every unfinished row has said where its vote stands, so it depends on the votes and on what they
cost, never on which row was faster: a run that is killed and continued decides the same from the same draws. First
every row gets the same few samples. Then, round by round, the samples go where the next one promises the most for
what it will cost (greedy: the largest gain per token or call first). What a row asks for and what it gains are the
technique's to say.
"""

import asyncio
from collections.abc import Callable, Collection
from statistics import median
from typing import Any

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.batch.rounds import Asking, Limits, share_out
from shoal.batch.rows import Input
from shoal.errors import BudgetExceeded, UsageError
from shoal.runtime.allocation import Wish
from shoal.runtime.budget import Budget
from shoal.runtime.model import Applied, Model
from shoal.runtime.types import Usage, total
from shoal.techniques import TECHNIQUES, slug_of
from shoal.techniques._allocated import MOST
from shoal.techniques.bounds import bound

_AMPLE = 2.0  # times what a sample is expected to cost


class Allocated(Struct, frozen=True):
    """How a budget went: samples a row, `settled` rows that asked for no more before it was spent, `moved` samples.

    `moved` are the samples that rows got above the even split, which the others did without. `rows` are those that
    got any.
    """

    rounds: int
    rows: int
    samples: int
    least: int
    median: float
    most: int
    settled: int
    moved: int


class Allocation:
    """Shares a budget out among `rows` rows, each of which takes a `seat`, asks for samples and leaves.

    A sample makes up to `calls` calls; `once` says that samples given together pay one prompt. UsageError where the
    budget limits neither tokens nor calls, or has not enough of them for one sample of each row.
    """

    def __init__(self, budget: Budget | None, rows: int, calls: int = 1, *, once: bool = False) -> None:
        if budget is None or (budget.tokens is None and budget.calls is None):
            raise UsageError("to allocate is to share out a budget: give one of tokens or calls")
        self.budget = budget
        self.limits = Limits(budget.calls, budget.tokens)
        self.calls = calls
        self.once = once and budget.tokens is not None
        self.rounds = 0
        self.part_spent = 0.0  # of the budget, when the last round began
        self.stopped: BudgetExceeded | None = None
        self._active = rows
        self._seats: dict[int, Seat] = {}
        self._asleep: dict[int, Seat] = {}
        if self.once:  # a draw that waits for tokens would not leave with those that share its prompt
            budget.reserving = False
        if short := _short("calls", rows, budget.calls, rows):
            raise UsageError(short)

    def seat(self, number: int, usage: Callable[[], Usage]) -> "Seat":
        """The place of a row by its number; `usage` says what it has spent so far."""
        seat = self._seats[number] = Seat(self, number, usage)
        return seat

    def stop(self, reason: str) -> None:
        """Give no more samples: votes that wait for some, or will ask, end in BudgetExceeded."""
        self.stopped = self.stopped or BudgetExceeded(reason)
        for seat in self._asleep.values():
            if not seat.answer.done():
                seat.answer.set_exception(self.stopped)
        self._asleep.clear()

    async def sleep(self, seat: "Seat", wish: Wish) -> int:
        """Until it is decided how many samples the seat gets."""
        if self.stopped is not None:
            raise self.stopped
        seat.wish, seat.answer = wish, asyncio.get_running_loop().create_future()
        self._asleep[seat.number] = seat
        self._decide_if_all_asked()
        try:
            return await seat.answer
        finally:
            self._asleep.pop(seat.number, None)

    def left(self, seat: "Seat") -> None:
        self._active -= 1
        self._decide_if_all_asked()

    def _decide_if_all_asked(self) -> None:
        if not self._asleep or len(self._asleep) < self._active:
            return
        if any(seat.answer.done() for seat in self._asleep.values()):  # cancelled: they are about to leave
            return
        asleep, self._asleep = self._asleep, {}
        spent = self._spent()
        self.part_spent = self.limits.part(spent)
        once = self.once
        dearest = max((seat.tokens(once=once) for seat in self._seats.values() if seat.given), default=0.0)
        asking = [seat.asking(self.calls, dearest, once=once) for _, seat in sorted(asleep.items())]
        if self.rounds == 0:  # nothing is spent yet
            prompts = sum(seat.wish.prompt_tokens + 1 for seat in asleep.values())
            if short := _short("tokens", prompts, self.limits.tokens, len(asleep)):
                self._asleep = asleep
                self.stop(short)
                return
        self.rounds += 1
        for number, grant in share_out(asking, self.limits, spent).items():
            if grant is None:
                self._asleep[number] = asleep[number]
                continue
            asleep[number].given += grant
            asleep[number].visits += grant > 0
            asleep[number].told_to_end = grant == 0
            asleep[number].answer.set_result(grant)

    def _spent(self) -> Usage:
        """What all rows have taken of what is shared out, earlier processes of the run included.

        Draws from the cache count as if paid: with a cache that has them all, the same run is had again for nothing.
        The budget, which they cost nothing, is told of the rest.
        """
        spent = total(seat.usage() for seat in self._seats.values())
        if spent.calls > self.budget.spent.calls or spent.total_tokens > self.budget.spent.total_tokens:
            self.budget.spent = spent
        return Usage(spent.total_tokens + spent.cached_tokens, calls=spent.calls + spent.cached_calls)

    def result(self) -> Allocated | None:
        """How the budget went; None where no row got anything."""
        seats = [seat for seat in self._seats.values() if seat.given]
        if not seats:
            return None
        given = [seat.given for seat in seats]
        even = sum(given) / len(given)
        return Allocated(
            rounds=self.rounds,
            rows=len(seats),
            samples=sum(given),
            least=min(given),
            median=median(given),
            most=max(given),
            settled=sum(seat.settled for seat in seats),
            moved=round(sum(max(0.0, one - even) for one in given)),
        )


class Seat:
    """A row's place in an allocation."""

    __slots__ = ("_allocation", "_usage", "answer", "given", "number", "settled", "told_to_end", "visits", "wish")

    def __init__(self, allocation: Allocation, number: int, usage: Callable[[], Usage]) -> None:
        self._allocation = allocation
        self.number = number
        self._usage = usage
        self.given = self.visits = 0
        self.settled = self.told_to_end = False
        self.wish: Wish
        self.answer: asyncio.Future[int]

    @property
    def stopped(self) -> BudgetExceeded | None:
        return self._allocation.stopped

    async def more(self, wish: Wish) -> int:
        return await self._allocation.sleep(self, wish)

    def usage(self) -> Usage:
        return self._usage()

    def tokens(self, *, once: bool) -> float:
        """What a sample of this row took, draws from the cache as if paid, without what is paid `once` for several."""
        usage = self.usage()
        prompts = usage.prompt_tokens + usage.cached_prompt_tokens if once else 0
        return max((usage.total_tokens + usage.cached_tokens - prompts) / self.given, 1.0)

    def asking(self, calls: int, dearest: float, *, once: bool) -> Asking:
        """What is asked for. A sample is expected to cost what this row's others did.

        `dearest` is what a sample of the dearest row took, 0 where nobody has had one; `once` says that samples given
        together pay one prompt, and that nobody else reserves tokens: then what is ample is the most.
        """
        wish = self.wish
        most = float(calls * wish.most_tokens)
        prompt = calls * wish.prompt_tokens
        visit = float(prompt) if once else 0.0
        if not self.given:
            ample = most if once or not dearest else min(most, prompt + _AMPLE * dearest)
            tokens = prompt - visit + max((ample - prompt) / _AMPLE, 1.0)  # replies of half the length they may have
            return Asking(self.number, 0, wish.gains, calls, tokens, ample - visit, calls, most, visit)
        usage = self.usage()
        if once:
            visit = (usage.prompt_tokens + usage.cached_prompt_tokens) / self.visits
        each = max((usage.calls + usage.cached_calls) / self.given, 1)
        tokens = self.tokens(once=once)
        most = max(most, visit + tokens)
        ample = max(most - visit, _AMPLE * tokens) if once else min(most, _AMPLE * tokens)
        return Asking(self.number, self.given, wish.gains, each, tokens, ample, max(calls, each), most, visit)

    def leave(self, *, answered: bool) -> None:
        """The row needs no more samples. What it spends from here on, as in being rated, is not counted."""
        usage = self.usage()
        self._usage = lambda: usage
        self.settled = answered and not self.told_to_end
        self._allocation.left(self)


def _short(unit: str, need: int, limit: int | None, rows: int) -> str | None:
    """What to say of a budget that cannot be enough for one sample of each row."""
    if limit is None or need <= limit:
        return None
    return f"the budget of {limit} {unit} is not enough for one sample of each of {rows} rows: at least {need} {unit}"


def allocation_for(
    model: object, rows: Input, budget: Budget | None, scorer_models: Collection[object] = ()
) -> Allocation:
    """The allocation of a budget to a model's votes over rows; UsageError where there can be none."""
    calls = calls_of_a_sample(model)
    if scorer_models:
        raise UsageError("to allocate is to spend all of the budget on samples: the scorer may not ask a model")
    return Allocation(budget, rows.own, calls, once=_pays_prompts_once(model))


def allocated_identity(allocation: Allocation, rows: Input) -> dict[str, Any]:
    """What an allocated run is besides: another budget, or one row more, would give every row something else."""
    return {"allocate": [allocation.limits.calls, allocation.limits.tokens, rows.count]}


def _pays_prompts_once(model: object) -> bool:
    """Whether draws of one prompt that are asked for together are one wire request, which pays it once."""
    below = model.model if isinstance(model, Applied) and not model.options.get("proposers") else None
    return isinstance(below, BaseModel) and getattr(below.scheduler, "max_n", 1) > 1


def calls_of_a_sample(model: object) -> int:
    """Calls that one sample of the outermost vote makes at the most; UsageError where the model is no vote."""
    asking = [slug for slug, entry in TECHNIQUES.items() if entry.allocates]
    if not isinstance(model, Applied) or slug_of(model.technique) not in asking:
        raise UsageError(
            f"to allocate is to share samples out among votes: the outermost technique is to be {' or '.join(asking)}"
        )
    return max(bound(sampled).calls for sampled in model.options.get("proposers") or [model.model])


def with_most_samples(model: Model) -> Applied:
    """The vote as it may be at the most, for a plan: with as many samples as a row can get, one after another."""
    assert isinstance(model, Applied)
    options = TECHNIQUES[slug_of(model.technique) or ""].options | model.options
    n = MOST * max(options["n"], len(options["proposers"] or ()))
    return Applied(model.technique, model.model, model.options | {"n": n, "stop": "settled", "ahead": 1})
