"""One round of an allocation, as a pure function: who gets how many samples of what is left."""

import heapq
import math
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

    def part(self, spent: Usage) -> float:
        """How much is spent of the limit that is nearest, from 0 to 1."""
        pairs = (spent.calls, self.calls), (spent.total_tokens, self.tokens)
        return max(1 - (all_ - gone) / all_ if all_ else 1.0 for gone, all_ in pairs if all_ is not None)


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


class _Purse:
    """What is left of the calls, or of the tokens; of what has no limit nothing is ever taken.

    `room` is what would be left if all samples given cost what is ample, `gap` by how much one of them may exceed that.
    """

    __slots__ = ("gap", "left", "quota", "room", "whole")

    def __init__(self, limit: int | None, spent: int) -> None:
        self.whole = math.inf if limit is None else limit
        self.left = self.whole - spent
        self.room = self.left
        self.gap = 0.0
        self.quota = max(_PART * self.left, _WORTH_A_ROUND * self.whole)

    def has(self, ample: float, beyond: float) -> bool:
        room = self.room - ample
        return room >= self.gap and room >= beyond

    def take(self, ample: float, beyond: float, cost: float) -> None:
        self.room -= ample
        if beyond > self.gap:
            self.gap = beyond
        self.quota -= cost


class _Round:
    def __init__(self, asking: Sequence[Asking], limits: Limits, spent: Usage) -> None:
        self.asking = asking
        self.calls = _Purse(limits.calls, spent.calls)
        self.tokens = _Purse(limits.tokens, spent.total_tokens)
        self.grants = [0] * len(asking)

    def shared(self) -> dict[int, int | None]:
        if min(self.calls.left, self.tokens.left) > 0 and not self._opened() and not self._is_tail():
            self._by_gain()
        over = not any(self.grants)
        return {
            one.number: grant if grant or over or not self._could_fit(one) else None
            for one, grant in zip(self.asking, self.grants, strict=True)
        }

    def _opened(self) -> bool:
        """Give those rows samples that have fewer than every row gets; whether any got some."""
        if any(one.visit > 0 for one in self.asking):
            return self._opened_dear()
        fewest = min(one.given for one in self.asking)
        opening = self._opening(fewest) if fewest < 2 else 0
        if fewest >= opening:
            return False
        for i, one in sorted(enumerate(self.asking), key=lambda item: item[1].given):
            wanted = min(opening - one.given, len(one.gains))
            while self.grants[i] < wanted and self._take(i, one):
                pass
        return any(self.grants)

    def _opened_dear(self) -> bool:
        """The same where coming back to a row costs its prompt again: all at once, or as many as fit."""
        fresh = [(i, one) for i, one in enumerate(self.asking) if one.given == 0]
        if len(fresh) == len(self.asking):
            fresh = fresh[:: max(4, -(-len(fresh) // _SCOUTS))]
        opening = self._opening_of_dear([one for _, one in fresh])
        for i, one in fresh:
            any(self._take(i, one, samples) for samples in range(min(opening, len(one.gains)), 0, -1))
        return any(self.grants)

    def _opening(self, fewest: int) -> int:
        """How many samples every row gets before any gets more."""
        calls, tokens = sum(one.calls for one in self.asking), sum(one.tokens for one in self.asking)
        return 2 if fewest + min(self.calls.left / calls, self.tokens.left / tokens) >= _PLENTY else 1

    def _opening_of_dear(self, fresh: Sequence[Asking]) -> int:
        """The dearer the prompt, the nearer to the even split."""
        waiting = [one for one in self.asking if one.given == 0]
        if not fresh:
            return 0
        known = [one.tokens for one in self.asking if one.given] or [one.tokens for one in fresh]
        tokens, visit = sum(known) / len(known), sum(one.visit for one in waiting) / len(waiting)
        gap = max(one.most_tokens - one.visit for one in self.asking) - tokens  # else the last may never fit
        even = ((self.tokens.left - gap) / len(waiting) - visit) / tokens
        return max(1, int(min(even, 2 + (even - 2) * visit / (visit + _REVISITED * tokens))))

    def _is_tail(self) -> bool:
        """Whether so few tokens are left that rounds would come to no end: each can only give what surely fits."""
        return self.tokens.left < _WORTH_A_ROUND * self.tokens.whole

    def _by_gain(self) -> None:
        """Give the samples with the largest gain for what is left of the budget they take, the largest first."""
        heap = [self._entry(i, one) for i, one in enumerate(self.asking) if one.gains[0] > 0]
        heapq.heapify(heap)
        while heap and self.calls.quota > 0 and self.tokens.quota > 0:
            _, i, samples = heapq.heappop(heap)
            one = self.asking[i]
            most = len(one.gains) if one.visit else min(len(one.gains), _AT_ONCE)
            if self._take(i, one, samples) and self.grants[i] < most and one.gains[self.grants[i]] > 0:
                heapq.heappush(heap, self._entry(i, one))

    def _entry(self, i: int, one: Asking) -> tuple[float, int, int]:
        """How much the next samples of a row gain for their cost, negative, and of how many that is the best."""
        begun = self.grants[i]
        if begun or not one.visit:
            return -one.gains[begun] / self._part(one.calls, one.tokens), i, 1
        best, gain = (0.0, i, 1), 0.0
        for samples, more in enumerate(one.gains, start=1):
            gain += more
            best = min(best, (-gain / self._part(samples * one.calls, one.visit + samples * one.tokens), i, samples))
        return best

    def _part(self, calls: float, tokens: float) -> float:
        """What a cost is of what is left."""
        return max(calls / self.calls.left, tokens / self.tokens.left)

    def _take(self, i: int, one: Asking, samples: int = 1) -> bool:
        """Give a row so many samples more, if they fit."""
        visit = 0.0 if self.grants[i] else one.visit
        calls, tokens = samples * one.most_calls, visit + samples * one.ample_tokens
        beyond = max(0.0, one.most_tokens - tokens / samples)
        if not self.calls.has(calls, 0.0) or not self.tokens.has(tokens, beyond):
            return False
        self.calls.take(calls, 0.0, samples * one.calls)
        self.tokens.take(tokens, beyond, visit + samples * one.tokens)
        self.grants[i] += samples
        return True

    def _could_fit(self, one: Asking) -> bool:
        """Whether one sample would fit if nobody else got any: where not, it never will."""
        return one.most_calls <= self.calls.left and one.most_tokens <= self.tokens.left
