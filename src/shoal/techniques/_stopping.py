"""When a vote may stop early: rules that look at the votes in the order of their samples.

The order of samples, not of arrival: short replies come first, and a rule that looked at what has arrived would favour
their answers.

- "settled": the samples not yet asked cannot change the winner. The answer is that of the full vote, always.
- "beta": the posterior probability that the first of the two leading answers is the likelier one, under a uniform prior
  of their share, reaches the confidence (arXiv:2305.11860). It is the cheapest and a heuristic: a posterior looked at
  after every sample reaches any level sooner or later, so the share of wrong stops can exceed 1 - confidence.
- "martingale": a test for every answer, those never seen included, of the hypothesis that it is the likeliest; the vote
  stops when all but the leader's are rejected (an anytime-valid certificate as in arXiv:2510.17472, with tests of our
  own). Every test bets, before each sample, that it will be the rival rather than the tested answer m; the rival is
  the leading answer beside m, and no bet is made while that has fewer votes than m. With a bet of size b the test's
  capital is multiplied by 1 + b if the rival comes, by 1 - b if m comes, and kept otherwise. Where m is the likeliest
  answer of independent draws, the rival is never likelier than m, so the capital does not grow on average: it is a
  supermartingale that starts at 1, whatever rivals the past picked, and so is an average over bets. By Ville's
  inequality it ever reaches 1 / (1 - confidence) with a probability of at most 1 - confidence. A wrong certificate must
  have rejected the one true hypothesis; so that is its probability too, however many answers there are and however
  often we look, without a union bound. The same holds for "m has the most votes in the full vote": given the full
  vote's samples in random order, a rival that has no fewer votes than m so far has no more than m left to come.

A rule that has not decided stops where the vote is settled, too: further samples would be paid for nothing. The answer
is then the full vote's, whatever confidence in its being the likeliest has been reached.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from functools import cache

RULES = ("settled", "beta", "martingale")
_ENOUGH = 1e15  # capital beyond which nobody counts
_MOST_DOUBLINGS = 1000  # as many as a float can hold
_NOTHING = 1e-17  # a share that is lost in rounding


class Vote:
    """The votes of up to `n` samples, added in order, and whether that is enough. A vote of None is for nothing."""

    def __init__(self, n: int, rule: str, confidence: float, ahead: int = 1) -> None:
        self.n = n
        self.rule = rule
        self.level = confidence
        self.ahead = ahead
        self.samples = 0
        self.counts: dict[object, int] = {}  # in the order in which the answers were first seen
        self._tests: dict[object, _Test] = {}
        self._unseen = _Test()  # of an answer nobody has given yet
        self._goal = 0

    @property
    def leader(self) -> object:
        """The answer with the most votes, the earliest of those; None where there is none."""
        return max(self.counts, key=self.counts.__getitem__, default=None)

    def add(self, form: object) -> None:
        self.samples += 1
        if form is None:
            return
        if self.rule == "martingale":
            self._bet(form)
        self.counts[form] = self.counts.get(form, 0) + 1

    def _bet(self, form: object) -> None:
        """What the sample does to every test. The rivals were fixed by the votes before it."""
        first, second = self._leading()
        tested = self._tests.setdefault(form, copy(self._unseen))
        if first is None:
            return
        if form != first:
            tested.lost()
            if form == second and self.counts[second] == self.counts[first]:
                self._tests[first].won()
            return
        if second is not None and self.counts[second] == self.counts[first]:
            tested.lost()
        for test in (self._unseen, *(test for answer, test in self._tests.items() if answer != first)):
            test.won()

    def _leading(self) -> tuple[object, object]:
        first = self.leader
        second = max((a for a in self.counts if a != first), key=self.counts.__getitem__, default=None)
        return first, second

    def leading_votes(self) -> tuple[int, int]:
        """The votes of the two leading answers."""
        first, second = self._leading()
        return self.counts.get(first, 0), self.counts.get(second, 0)

    @property
    def confidence(self) -> float:
        """How sure the rule is of the leader, from 0 to 1."""
        first, second = self._leading()
        if self.rule == "settled" or first is None:
            return float(first is not None and self.is_settled)
        if self.rule == "beta":
            return likelier(self.counts[first], self.counts.get(second, 0))
        least = min([self._unseen.most, *(test.most for answer, test in self._tests.items() if answer != first)])
        return 1 - 1 / least

    @property
    def is_settled(self) -> bool:
        """Whether no further samples could change the winner, the earliest answer of those with the most votes."""
        left = self.n - self.samples
        first = self.leader
        if first is None or left == 0:
            return left == 0
        votes, places = self.counts[first], list(self.counts)
        earlier = places[: places.index(first)]  # these would win a tie
        return votes >= left and all(
            self.counts[answer] + left < votes + (answer not in earlier) for answer in places if answer != first
        )

    @property
    def is_decided(self) -> bool:
        return self.is_settled or (self.rule != "settled" and self.confidence >= self.level)

    def count(self, forms: Sequence[object]) -> int:
        """Take in the votes of the next samples, up to where they decide; how many samples are worth having in all.

        That is as many as there are once it is decided. Before, it is as many as it takes if all the rest agree with
        the leader, as fewer are hardly ever enough; where these turn out not to be, at least `ahead` more than there
        are, so that a divided vote does not go on one by one.
        """
        for form in forms:
            if self.is_decided:
                break
            self.add(form)
        if self.is_decided:
            return self.samples
        fewest = self._fewest_more()
        if self.samples + fewest > self._goal:
            self._goal = min(self.n, self.samples + (max(fewest, self.ahead) if self.samples else fewest))
        return self._goal

    def _fewest_more(self) -> int:
        """How many more samples it takes if all agree with the leader, which never makes it less sure."""
        return bisect_left(range(self.n - self.samples), True, key=lambda more: self._agreed(more).is_decided)

    def _agreed(self, more: int) -> "Vote":
        """The vote after so many more samples that agree with the leader."""
        vote = copy(self)
        leader = self.leader if self.counts else "any"
        bets = more if self.counts else more - 1  # there is no rival to bet on before the first sample
        vote.samples += more
        vote.counts = {**self.counts, leader: self.counts.get(leader, 0) + more} if more else self.counts
        vote._unseen = self._unseen.after(bets)
        states = {(test.wins, test.losses, test.most): test for answer, test in self._tests.items() if answer != leader}
        vote._tests = {state: test.after(bets) for state, test in states.items()}  # equal tests stay equal
        return vote


class _Test:
    """The test of one answer: its bets won and lost, and the most capital it ever had."""

    def __init__(self) -> None:
        self.wins = self.losses = 0
        self.most = 1.0

    def won(self) -> None:
        self.wins += 1
        if self.most < _ENOUGH:
            self.most = max(self.most, capital(self.wins, self.losses))

    def lost(self) -> None:
        self.losses += 1

    def after(self, bets: int) -> "_Test":
        """The test after so many more bets, all of them won."""
        test = copy(self)
        if bets > 0:
            test.wins += bets - 1
            test.won()
        return test


@cache
def capital(wins: int, losses: int) -> float:
    """What 1 becomes after bets won and lost, half of it staked whole each time, half spread evenly over all stakes.

    The first half is for answers without dissent (2 to the power of the wins, or nothing after one loss), the second
    for the rest: the average of (1 + b)^wins (1 - b)^losses over b from 0 to 1.
    """
    spread = _at_most(wins, wins + losses + 1) / (losses + 1)
    return spread / 2 if losses else (2.0 ** min(wins, _MOST_DOUBLINGS) + spread) / 2


@cache
def likelier(first: int, second: int) -> float:
    """The posterior probability that an answer with `first` votes is likelier than one with `second`."""
    votes = first + second + 1
    if first < second:
        return 1 - likelier(second, first)
    return 1 - _at_most(second, votes) * (math.comb(votes, second) / (1 << votes))


def _at_most(k: int, n: int) -> float:
    """The number of ways to choose at most k of n, over that to choose k."""
    ways = share = 1.0
    for i in range(k):
        share *= (k - i) / (n - k + 1 + i)
        ways += share
        if share < ways * _NOTHING:
            break
    return ways
