"""Best-of-n: sample n answers and keep the one a judge prefers (arXiv:2009.01325, with a model as the judge)."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations

from msgspec import structs

from shoal.errors import UsageError, did_you_mean
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, sample
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques._conversation import said
from shoal.techniques._judging import (
    ask_comparison,
    ask_rating,
    ask_selection,
    is_empty,
    is_whole,
    preferred,
    score,
    selected,
)
from shoal.techniques._options import at_least


async def best_of_n(
    model: Model,
    request: Request,
    *,
    n: int = 4,
    judge: Model | None = None,
    judging: str = "score",
    votes: int = 3,
) -> Completion:
    """Sample n answers and keep the one a judge rates highest.

    The judge sees the whole conversation and reasons before its verdict. With `judging` "score" it scores each answer
    from 0 to 10; with "pairwise" it compares every two, and the one that wins most comparisons is kept; with
    "tournament" it compares them in knock-out rounds; with "select" it picks one of them all, `votes` times in
    different orders. Each comparison is asked in both orders, and decided only where both say the same; else it is a
    tie. A verdict that cannot be read is missing: a missing score ranks below every readable one. Ties go to an answer
    that was not cut off, then to the earliest. Empty answers are never judged, nor are copies of an earlier one.
    """
    if judging not in _JUDGINGS:
        raise UsageError(f"best_of_n: unknown judging {judging!r}; {did_you_mean(judging, _JUDGINGS)}")
    at_least(1, n=n, votes=votes)
    answers = await sample(model, request, n)
    firsts: dict[str, Completion] = {}
    for answer in answers:
        if not is_empty(answer):
            firsts.setdefault(said(answer), answer)
    distinct = list(firsts.values())
    best, spent = (distinct or answers)[0], Usage()
    if len(distinct) > 1:
        best, spent = await _JUDGINGS[judging](judge or model, request, distinct, votes)
    return structs.replace(best, usage=total(answer.usage for answer in answers) + spent)


Chosen = tuple[Completion, Usage]  # and what the judge cost
Judging = Callable[[Model, Request, Sequence[Completion], int], Awaitable[Chosen]]


async def _by_score(judge: Model, request: Request, answers: Sequence[Completion], votes: int) -> Chosen:
    verdicts = await gather(*(judge(ask_rating(request, answer)) for answer in answers))
    ratings = [score(verdict) for verdict in verdicts]
    points = [-1.0 if rating is None else rating for rating in ratings]
    return _highest(answers, points), total(verdict.usage for verdict in verdicts)


async def _by_pairs(judge: Model, request: Request, answers: Sequence[Completion], votes: int) -> Chosen:
    """Copeland's count: a point for each comparison won, half of one for each tie."""
    pairs = list(combinations(range(len(answers)), 2))
    results = await gather(*(_compared(judge, request, answers[i], answers[j]) for i, j in pairs))
    points = [0.0] * len(answers)
    for (i, j), (won, _spent) in zip(pairs, results, strict=True):
        points[i] += won
        points[j] += 1.0 - won
    return _highest(answers, points), total(spent for _, spent in results)


async def _by_rounds(judge: Model, request: Request, answers: Sequence[Completion], votes: int) -> Chosen:
    """The winners of both halves of the field meet; no match waits for another but for those of its two players."""
    if len(answers) == 1:
        return answers[0], Usage()
    half = (len(answers) + 1) // 2
    halves = (answers[:half], answers[half:])
    (first, before), (second, besides) = await gather(*(_by_rounds(judge, request, part, votes) for part in halves))
    won, spent = await _compared(judge, request, first, second)
    return _highest((first, second), (won, 1.0 - won)), before + besides + spent


async def _by_selection(judge: Model, request: Request, answers: Sequence[Completion], votes: int) -> Chosen:
    """The answer picked most often, where each verdict sees them from another one on, as evenly spread as can be."""
    n = len(answers)
    shifts = [vote * n // votes if votes < n else vote % n for vote in range(votes)]
    orders = [[(shift + place) % n for place in range(n)] for shift in shifts]
    asked = [ask_selection(request.draw(vote), [answers[i] for i in order]) for vote, order in enumerate(orders)]
    verdicts = await gather(*(judge(question) for question in asked))
    places = [selected(verdict, n) for verdict in verdicts]
    picked = Counter(order[place] for order, place in zip(orders, places, strict=True) if place is not None)
    return _highest(answers, [float(picked[i]) for i in range(n)]), total(verdict.usage for verdict in verdicts)


async def _compared(judge: Model, request: Request, first: Completion, second: Completion) -> tuple[float, Usage]:
    """What the first answer wins against the second: 1, 0, or 0.5 unless both orders give the same one of them."""
    orders = (ask_comparison(request, first, second), ask_comparison(request, second, first))
    there, back = await gather(*(judge(question) for question in orders))
    won = {("A", "B"): 1.0, ("B", "A"): 0.0}.get((preferred(there) or "", preferred(back) or ""), 0.5)
    return won, there.usage + back.usage


def _highest(answers: Sequence[Completion], points: Sequence[float]) -> Completion:
    """The answer with most points; of several one that was not cut off, then the earliest."""
    return max(zip(answers, points, strict=True), key=lambda rated: (rated[1], is_whole(rated[0])))[0]


_JUDGINGS: dict[str, Judging] = {
    "score": _by_score,
    "pairwise": _by_pairs,
    "tournament": _by_rounds,
    "select": _by_selection,
}
