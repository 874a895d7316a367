"""One round of an allocation, as a pure function: who gets how many samples of what is left."""

import heapq
from collections.abc import Sequence

from msgspec import Struct

from shoal.runtime.types import Usage

# Of what is left, a round gives out so much: votes are looked at again before the rest goes. In simulation a smaller
# part gains nothing, and half loses a part of what is won over the even split.
_PART = 0.25
# A round gives out at least this part of the whole budget, and no more rounds are held for less.
_WORTH_A_ROUND = 0.01
# Every row gets two samples first where the budget is good for so many a row, else one.
_PLENTY = 4
# The most samples that a row gets in a round, after the first ones, where coming back to it costs nothing.
_AT_ONCE = 4
# Rows that get samples in a round of their own, where it matters from the first how long replies are.
_SCOUTS = 32
# How many replies a prompt is worth where half of the even split is given before any row is come back to.
_REVISITED = 4


class Limits(Struct, frozen=True):
    """What may be spent in all. None is no limit."""

    calls: int | None
    tokens: int | None

    def left(self, spent: Usage) -> list[float]:
        """Of each limit there is, what is left."""
        calls = [] if self.calls is None else [self.calls - spent.calls]
        return [*calls, *([] if self.tokens is None else [self.tokens - spent.total_tokens])]

    def all(self) -> list[float]:
        return self.left(Usage())

    def part(self, spent: Usage) -> float:
        """How much is spent of the limit that is nearest, from 0 to 1."""
        return max(1 - left / all_ if all_ else 1.0 for left, all_ in zip(self.left(spent), self.all(), strict=True))

    def of(self, calls: float, tokens: float) -> list[float]:
        """What counts of a cost, in the order of `left`."""
        return [*([] if self.calls is None else [calls]), *([] if self.tokens is None else [tokens])]


class Asking(Struct, frozen=True):
    """A row that asks: the samples it has been given, what each of the next is worth, and what one costs.

    `calls` and `tokens` are expected of a sample, `ample_tokens` are enough for it on any but the rarest day, and it
    never costs more than the `most_` ones. `visit` tokens are paid once for all samples of a round, beside `tokens`.
    """

    number: int
    given: int
    gains: Sequence[float]
    calls: float
    tokens: float
    ample_tokens: float
    most_calls: float
    most_tokens: float
    visit: float = 0.0


def share_out(asking: Sequence[Asking], limits: Limits, spent: Usage) -> dict[int, int | None]:
    """How many samples each row gets now, by its number: 0 for none, ever, None where it is to wait.

    All that is given now fits into what is left where each sample costs what is ample and one of them the most that it
    may: none is refused then by a budget that reserves the most for each and lets it wait for what others return.
    """
    return _Round(asking, limits, spent).shared()


class _Round:
    def __init__(self, asking: Sequence[Asking], limits: Limits, spent: Usage) -> None:
        self.asking = asking
        self.limits = limits
        self.whole = limits.all()
        self.left = limits.left(spent)
        self.room = list(self.left)  # if all samples cost what is ample
        self.gap = [0.0] * len(self.left)  # by how much one may at the most exceed that
        self.quota = [
            max(_PART * left, _WORTH_A_ROUND * all_) for left, all_ in zip(self.left, self.whole, strict=True)
        ]
        self.grants = [0] * len(asking)

    def shared(self) -> dict[int, int | None]:
        if min(self.left) > 0 and not self._opened() and not self._is_tail():
            self._by_gain()
        over = not any(self.grants)
        return {
            one.number: grant if grant or over or not self._could_fit(one) else None
            for one, grant in zip(self.asking, self.grants, strict=True)
        }

    def _opened(self) -> bool:
        """Give those rows samples that have fewer than every row gets; whether any got some."""
        dear = any(one.visit > 0 for one in self.asking)
        fresh = [(i, one) for i, one in enumerate(self.asking) if one.given == 0]
        if dear and len(fresh) == len(self.asking):
            fresh = fresh[:: max(4, -(-len(fresh) // _SCOUTS))]
        opening = self._opening_of_dear([one for _, one in fresh]) if dear else self._opening()
        rows = fresh if dear else sorted(enumerate(self.asking), key=lambda item: item[1].given)
        for i, one in rows:
            wanted = max(0, min(opening - one.given, len(one.gains)))
            if dear:  # all at once, or as many as fit
                any(self._take(i, one, samples) for samples in range(wanted, 0, -1))
                continue
            while self.grants[i] < wanted and self._take(i, one):
                pass
        return any(self.grants)

    def _opening(self) -> int:
        """How many samples every row gets before any gets more."""
        fewest, costs = min(one.given for one in self.asking), self._sum()
        return 2 if all(fewest + left / cost >= _PLENTY for left, cost in zip(self.left, costs, strict=True)) else 1

    def _opening_of_dear(self, fresh: Sequence[Asking]) -> int:
        """The same where coming back to a row costs its prompt again: the dearer, the nearer to the even split."""
        waiting = [one for one in self.asking if one.given == 0]
        if not fresh:
            return 0
        known = [one.tokens for one in self.asking if one.given] or [one.tokens for one in fresh]
        tokens, visit = sum(known) / len(known), sum(one.visit for one in waiting) / len(waiting)
        gap = max(one.most_tokens - one.visit for one in self.asking) - tokens  # else the last may never fit
        even = ((self.left[-1] - gap) / len(waiting) - visit) / tokens
        return max(1, int(min(even, 2 + (even - 2) * visit / (visit + _REVISITED * tokens))))

    def _sum(self) -> list[float]:
        """What one sample more for every row would cost."""
        return self.limits.of(sum(one.calls for one in self.asking), sum(one.tokens for one in self.asking))

    def _is_tail(self) -> bool:
        """Whether so few tokens are left that rounds would come to no end: each can only give what surely fits."""
        return self.limits.tokens is not None and self.left[-1] < _WORTH_A_ROUND * self.whole[-1]

    def _by_gain(self) -> None:
        """Give the samples with the largest gain for what is left of the budget they take, the largest first."""
        heap = [self._entry(i, one) for i, one in enumerate(self.asking) if one.gains[0] > 0]
        heapq.heapify(heap)
        while heap and min(self.quota) > 0:
            _, i, samples = heapq.heappop(heap)
            one = self.asking[i]
            most = len(one.gains) if one.visit else min(len(one.gains), _AT_ONCE)
            if self._take(i, one, samples) and self.grants[i] < most and one.gains[self.grants[i]] > 0:
                heapq.heappush(heap, self._entry(i, one))

    def _entry(self, i: int, one: Asking) -> tuple[float, int, int]:
        """How much the next samples of a row gain for their cost, negative, and of how many that is the best."""
        begun = self.grants[i]
        best, gain = (0.0, i, 1), 0.0
        for samples, more in enumerate(one.gains[begun:], start=1):
            gain += more
            shares = zip(self._cost(i, one, samples), self.left, strict=True)
            best = min(best, (-gain / max(cost / left for cost, left in shares), i, samples))
            if begun or not one.visit:
                break
        return best

    def _cost(self, i: int, one: Asking, samples: int) -> list[float]:
        visit = 0.0 if self.grants[i] else one.visit
        return self.limits.of(samples * one.calls, visit + samples * one.tokens)

    def _take(self, i: int, one: Asking, samples: int = 1) -> bool:
        """Give a row so many samples more, if they fit."""
        visit = 0.0 if self.grants[i] else one.visit
        ample = self.limits.of(samples * one.most_calls, visit + samples * one.ample_tokens)
        room = [room - cost for room, cost in zip(self.room, ample, strict=True)]
        most = self._most(one)
        beyond = [max(0.0, most - ample / samples) for most, ample in zip(most, ample, strict=True)]
        gap = [max(*pair) for pair in zip(self.gap, beyond, strict=True)]
        if any(room < gap for room, gap in zip(room, gap, strict=True)):
            return False
        self.room, self.gap = room, gap
        costs = self._cost(i, one, samples)
        self.quota = [quota - cost for quota, cost in zip(self.quota, costs, strict=True)]
        self.grants[i] += samples
        return True

    def _could_fit(self, one: Asking) -> bool:
        """Whether one sample would fit if nobody else got any: where not, it never will."""
        return all(most <= left for most, left in zip(self._most(one), self.left, strict=True))

    def _most(self, one: Asking) -> list[float]:
        return self.limits.of(one.most_calls, one.most_tokens)
