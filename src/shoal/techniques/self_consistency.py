"""Self-consistency: sample n answers and keep the one most of them agree on (arXiv:2203.11171)."""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import structs

from shoal.prompting.answers import extract, normalise
from shoal.runtime.model import Model, sample
from shoal.runtime.types import Completion, Request, total

Similarity = Callable[[str, str], float]


async def self_consistency(
    model: Model, request: Request, *, n: int = 8, kind: str = "auto", similarity: Similarity | None = None
) -> Completion:
    """Sample n answers and keep the one most of them agree on.

    What is compared is the final answer extracted from each (a number, a choice letter, a boxed expression...) and
    normalised, never the wording; `kind` says which sort to expect. An answer that cannot be found does not vote. Ties
    go to the earliest sample. With `similarity(a, b)` the answer most similar to all the others wins instead.
    """
    samples = await sample(model, request, n)
    answers = [extract(completion.text, kind) for completion in samples]
    voters = [i for i, answer in enumerate(answers) if answer is not None]
    usage = total(completion.usage for completion in samples)
    if not voters:
        return structs.replace(samples[0], usage=usage)
    votes = [answers[i] or "" for i in voters]
    support = _equals(votes, kind) if similarity is None else _similars(votes, similarity)
    winner = voters[support.index(max(support))]
    return structs.replace(samples[winner], usage=usage, answer=answers[winner])


def _equals(votes: Sequence[str], kind: str) -> list[float]:
    """How many of the votes say the same as each."""
    forms = {vote: normalise(vote, kind) for vote in set(votes)}
    counts = Counter(forms[vote] for vote in votes)
    return [counts[forms[vote]] for vote in votes]


def _similars(votes: Sequence[str], similarity: Similarity) -> list[float]:
    """The summed similarity of each vote to the others."""
    return [sum(similarity(a, b) for j, b in enumerate(votes) if j != i) for i, a in enumerate(votes)]
