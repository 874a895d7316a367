"""Best-of-n: sample n answers and keep the one a judge rates highest (arXiv:2009.01325, with a model as the judge)."""

from msgspec import structs

from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, sample
from shoal.runtime.types import Completion, Request, total
from shoal.techniques._judging import ask_rating, score


async def best_of_n(model: Model, request: Request, *, n: int = 4, judge: Model | None = None) -> Completion:
    """Sample n answers and keep the one a judge rates highest.

    The judge sees the whole conversation, reasons, then scores from 0 to 10. A score that cannot be read is missing: it
    ranks below every readable one. Ties go to the earliest sample.
    """
    judge = judge or model
    answers = await sample(model, request, n)
    verdicts = await gather(*(judge(ask_rating(request, answer)) for answer in answers))
    ratings = [score(verdict) for verdict in verdicts]
    best = max(range(n), key=lambda i: (-1.0 if (rated := ratings[i]) is None else rated, -i))
    return structs.replace(answers[best], usage=total(c.usage for c in (*answers, *verdicts)))
