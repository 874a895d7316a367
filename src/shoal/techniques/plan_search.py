"""PlanSearch: search over plans in natural language, made from combinations of observations (arXiv:2409.03733)."""

import re
from collections.abc import Sequence
from itertools import combinations

from msgspec import Struct, structs

from shoal.errors import TechniqueError
from shoal.prompting.answers import extract
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, then
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import instructed, said, thinking
from shoal.techniques._judging import ask_rating, is_empty, is_whole, score
from shoal.techniques._lists import items
from shoal.techniques._options import at_least
from shoal.techniques._spending import Spending
from shoal.techniques._voting import forms_of, short_answer, support

Subset = tuple[str, ...]


async def plan_search(
    model: Model,
    request: Request,
    *,
    n: int = 8,
    observations: int = 3,
    rethink: bool = True,
    judge: Model | None = None,
    kind: str = "auto",
) -> Completion:
    """Make observations, combine them into plans that differ, and answer from each of up to n plans.

    First-order observations about the question are combined in subsets of one or two, each subset yields second-order
    observations, and their subsets of one or two, with the first ones, a plan each. With `rethink` another plan is made
    supposing that the first is wrong, which doubles them. At most `observations` are taken from each list. The `judge`
    scores the answers, if one is given; without one the answer that most of them agree on wins, and the earliest where
    none can be compared. The others are the `alternatives`, best first.
    """
    at_least(1, n=n, observations=observations)
    extract("", kind)  # an unknown kind is refused here
    spending = Spending()
    search = _Search(spending.on(model), request, observations, rethink, judge and spending.on(judge))
    answers = await search.answers(n)
    whole = [answer for answer in answers if not is_empty(answer[0])]
    if not whole:
        raise TechniqueError(f"plan_search: none of {len(answers)} plans led to an answer: replies were empty")
    replies = [reply for reply, _ in whole]
    counts = support(forms_of(request, replies, kind))
    ranked = [
        (-1.0 if rated is None else rated, count, is_whole(reply))
        for (reply, rated), count in zip(whole, counts, strict=True)
    ]
    order = sorted(range(len(replies)), key=lambda i: ranked[i], reverse=True)
    best, *others = (replies[i] for i in order)
    return structs.replace(
        best, usage=spending.usage, answer=short_answer(request, best, kind), alternatives=tuple(others)
    )


Rated = tuple[Completion, float | None]  # an answer, and the judge's score of it


class _Search(Struct):
    """The plans of one question. No branch waits for another."""

    model: Model
    request: Request
    width: int
    rethink: bool
    judge: Model | None

    async def answers(self, n: int) -> list[Rated]:
        """Up to n answers. Plans go to the first-order subsets in turn, and there to the second-order ones in order."""
        observed = await self.observed(self.request, ())
        plans = -(-n // 2) if self.rethink else n
        begun = _subsets(observed)[:plans]
        branches = await gather(
            *(self.branch(i, subset, range(i, plans, len(begun)), n) for i, subset in enumerate(begun))
        )
        found = [pair for branch in branches for pair in branch]
        return [rated for _, answers in sorted(found, key=lambda pair: pair[0]) for rated in answers]

    async def branch(self, place: int, known: Subset, plans: range, n: int) -> list[tuple[int, list[Rated]]]:
        """What comes of one subset of first-order observations: the number of each plan, and its answers."""
        at = self.request.draw(place)
        derived = await self.observed(at, known)
        leaves = list(zip(plans, _subsets(derived), strict=False))
        wanted = [min(2, n - 2 * plan) if self.rethink else 1 for plan, _ in leaves]
        found = await gather(
            *(self.leaf(at.draw(i), (*known, *subset), wanted[i]) for i, (_, subset) in enumerate(leaves))
        )
        return [(plan, answers) for (plan, _), answers in zip(leaves, found, strict=True)]

    async def observed(self, at: Request, known: Subset) -> list[str]:
        """Observations derived from known ones, or from the question alone; none where the reply is blank."""
        name, gaps = "plan_search_observe", {"count": str(self.width)}
        if known:
            name, gaps = "plan_search_derive", {**gaps, "observations": _listed(known)}
        reply = await self.model(instructed(thinking(at), prompt(name).fill(gaps)))
        return items(reply)[: self.width]

    async def leaf(self, at: Request, known: Subset, wanted: int) -> list[Rated]:
        """The answers from a plan that uses these observations, and from another that supposes it to be wrong."""
        gaps = {"observations": _listed(known) or "(none)"}
        asked = instructed(thinking(at), prompt("plan_search_plan").fill(gaps))
        plan = await self.model(asked)
        if is_empty(plan):
            return []
        first = self.answer(at.draw(0), said(plan))
        found = await gather(first, *([self.rethought(at, asked, said(plan))] if wanted > 1 else []))
        return [rated for rated in found if rated is not None]

    async def rethought(self, at: Request, asked: Request, plan: str) -> Rated | None:
        other = await self.model(then(asked, plan, prompt("plan_search_rethink").fill({})))
        return None if is_empty(other) else await self.answer(at.draw(1), _new_plan(said(other)))

    async def answer(self, at: Request, plan: str) -> Rated | None:
        reply = await self.model(instructed(at, prompt("plan_search_answer").fill({"plan": plan})))
        if self.judge is None or is_empty(reply):
            return reply, None
        asked = ask_rating(structs.replace(self.request, sample=at.sample), reply)
        return reply, score(await self.judge(asked))


def _subsets(observations: Sequence[str]) -> list[Subset]:
    """Those of one in order, then those of two, then the empty one."""
    return [subset for size in (1, 2, 0) for subset in combinations(observations, size)]


def _listed(observations: Sequence[str]) -> str:
    return "\n\n".join(f"{i}. {observation}" for i, observation in enumerate(observations, 1))


_NEW_PLAN = re.compile(r"^[\s*_#>]*new plan[\s*_]*:[\s*_]*", re.IGNORECASE | re.MULTILINE)


def _new_plan(reply: str) -> str:
    """The new plan, without the criticism before it; all of the reply where it is not told apart."""
    return _NEW_PLAN.split(reply)[-1].strip() or reply
