"""What further samples are worth to a vote: the optimistic knowledge gradient.

Chen, Lin and Zhou, "Optimistic knowledge gradient policy for optimal budget allocation in crowdsourcing" (ICML 2013;
arXiv:1403.3080): label items with a fixed number of labels in all, each next one for the item where its luckiest
outcome would make us surer by most. Surer is meant in the posterior probability that the first of the two leading
answers is the likelier one, under a uniform prior of their share, as in adaptive consistency (arXiv:2305.11860). The
expected instead of the luckiest outcome (the knowledge gradient) is often 0, as one vote more seldom changes a winner,
and then never looks at a row again.
"""

from shoal.techniques._stopping import Vote, likelier


def gains(vote: Vote, most: int) -> tuple[float, ...]:
    """The gain of each of the next samples, up to `most` and to the vote's n.

    Those after the next one are judged as if the ones before it agreed with the leader.
    """
    first, second = vote.leading_votes()
    found = []
    for sample in range(vote.samples, min(vote.samples + most, vote.n)):
        found.append(_of_first_vote(sample) if first == 0 else _optimistic(first, second))
        first += 1
    return tuple(found)


def _optimistic(first: int, second: int) -> float:
    sure = likelier(first, second)
    return max(_sure(first + 1, second), _sure(first, second + 1)) - sure


def _sure(first: int, second: int) -> float:
    return likelier(max(first, second), min(first, second))


def _of_first_vote(samples: int) -> float:
    """Of a row no sample of which could be read: what a first vote is worth, by the chance that the next has one.

    That chance is by the rule of succession; the more samples said nothing, the less is expected of another.
    """
    return likelier(1, 0) / (samples + 2)
