"""Self-consistency: sample n answers and keep the one most of them agree on (arXiv:2203.11171)."""

from collections.abc import Callable, Sequence

from msgspec import structs

from shoal.errors import UsageError, did_you_mean
from shoal.prompting.answers import extract
from shoal.runtime import allocation
from shoal.runtime.concurrency import gather, take_while
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request, total
from shoal.techniques._allocated import allocated, vote_of_many
from shoal.techniques._judging import is_whole
from shoal.techniques._options import at_least, not_empty
from shoal.techniques._stopping import RULES, Vote
from shoal.techniques._voting import answer_and_form, support

Similarity = Callable[[str, str], float]
_Read = tuple[str | None, str | None]


async def self_consistency(  # noqa: PLR0913 - the vote's own parameters
    model: Model,
    request: Request,
    *,
    n: int = 8,
    kind: str = "auto",
    proposers: Sequence[Model] | None = None,
    stop: str | None = None,
    confidence: float = 0.95,
    ahead: int = 4,
    similarity: Similarity | None = None,
) -> Completion:
    """Sample n answers and keep the one most of them agree on.

    What is compared is the final answer extracted from each (a number, a choice letter, a boxed expression...) and
    normalised, never the wording; `kind` says which sort to expect. An answer that cannot be found does not vote. Ties
    go to the earliest sample. With `similarity(a, b)` the answer most similar to all the others wins instead. The
    samples are given by the `proposers` in turn (all of them where there are more than n).

    `stop` lets the vote end with fewer than n samples: "settled" when the rest cannot change the winner, "beta" or
    "martingale" when `confidence` is reached; see `_stopping`. The samples still under way are then cancelled. Where a
    divided vote goes on, at least `ahead` samples are started together.

    In a run that shares one budget out among its rows, the budget and the votes decide how many samples a row gets,
    up to four times n; `stop`, where given, ends a vote as before.
    """
    _check(n, kind, stop, confidence, ahead)
    not_empty(proposers=proposers)
    team = list(proposers or [model])
    if stop and similarity:
        raise UsageError("stop counts equal answers, and cannot be combined with similarity")
    if stop in ("beta", "martingale") and len(team) > 1:
        raise UsageError(f"stop={stop!r} takes all samples to be draws of one model; with several use stop='settled'")
    n = max(n, len(team))

    async def ask(i: int) -> Completion:
        return await team[i % len(team)](request.draw(i))

    votes = _Votes(request, kind)
    beyond: list[Completion] = []
    reached = None
    share = allocation.current.get()
    if share is not None:
        if similarity:
            raise UsageError("samples are shared out by equal answers, and not where similarity is given")
        vote = vote_of_many(n, stop, confidence, ahead)
        samples = await allocated(share, request, ask, votes.of, vote)
        reached = vote.confidence
    elif stop is None:
        samples = await gather(*map(ask, range(n)))
    else:
        vote = Vote(n, stop, confidence, ahead)
        samples, beyond = await take_while(ask, lambda replies: vote.count(votes.of(replies[len(votes.read) :])))
        reached = vote.confidence
    usage = total(completion.usage for completion in (*samples, *beyond))
    votes.of(samples[len(votes.read) :])
    winner = _winner(samples, votes.read[: len(samples)], similarity)
    return structs.replace(winner, usage=usage, confidence=reached)


class _Votes:
    """The samples of a request, each read once, in order: its answer, and the form in which votes are compared."""

    def __init__(self, request: Request, kind: str) -> None:
        self.request = request
        self.kind = kind
        self.read: list[_Read] = []

    def of(self, new: Sequence[Completion]) -> list[str | None]:
        """What the next samples vote for."""
        found = [answer_and_form(self.request, sample, self.kind) for sample in new]
        self.read += found
        return [form for _, form in found]


def _winner(samples: Sequence[Completion], read: Sequence[_Read], similarity: Similarity | None) -> Completion:
    """The earliest sample that gives the answer voted for, a whole one if there is one."""
    answers, forms = [answer for answer, _ in read], [form for _, form in read]
    voters = [i for i, form in enumerate(forms) if form is not None]
    if not voters:
        return max(samples, key=is_whole)
    if similarity is None:
        votes: Sequence[float] = support([forms[i] for i in voters])
    else:
        votes = _similars([answers[i] or "" for i in voters], similarity)
    form = forms[voters[votes.index(max(votes))]]
    best = max((i for i in voters if forms[i] == form), key=lambda i: is_whole(samples[i]))
    return structs.replace(samples[best], answer=answers[best])


def _similars(votes: Sequence[str], similarity: Similarity) -> list[float]:
    """The summed similarity of each vote to the others."""
    return [sum(similarity(a, b) for j, b in enumerate(votes) if j != i) for i, a in enumerate(votes)]


def _check(n: int, kind: str, stop: str | None, confidence: float, ahead: int) -> None:
    at_least(1, n=n, ahead=ahead)
    if stop is not None and stop not in RULES:
        raise UsageError(f"unknown rule stop={stop!r}; {did_you_mean(stop, RULES)}")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence}: must be above 0 and below 1")
    extract("", kind)  # an unknown kind is refused here
