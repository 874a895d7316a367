"""Particle filtering over solution steps, weighted by a process reward (arXiv:2502.01618)."""

import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

import msgspec
from msgspec import structs

from shoal.errors import UsageError
from shoal.prompting.answers import extract
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques._judging import is_whole
from shoal.techniques._options import at_least
from shoal.techniques._partials import Partial, Steps, distinct, rank, worded
from shoal.techniques._spending import Spending
from shoal.techniques._voting import forms_of, short_answer


async def particle_filtering(
    model: Model,
    request: Request,
    *,
    particles: int = 4,
    depth: int = 6,
    final: str = "best",
    kind: str = "auto",
    judge: Model | None = None,
) -> Completion:
    """Solve step by step with a population of partial solutions, resampled in proportion to their reward.

    In each of up to `depth` rounds every unfinished particle gets a next step, the judge scores all its steps from 0 to
    10, and the population is drawn anew: each place takes a copy of a particle with the odds its score stands for as
    weight. Finished particles stay in it with the weight they have. Unlike a beam search, a low score makes a particle
    rarer and not impossible, so that one wrong score does not end a right solution.

    `final` says how the answer is found among the last particles: "best" takes the one with the highest weight, "vote"
    the answer with the most weight, where `kind` says what sort to look for.
    """
    _check(particles, depth, final, kind)
    spending = Spending()
    steps = Steps(spending.on(model), request, spending.on(judge or model), "judge")
    population = [Partial()] * particles
    for level in range(depth):
        if level:
            population = _resampled(population, particles, _chance(request, level))
        moved = await _moved(steps, population, level)
        if not moved:  # there was nothing but blank steps: what there is remains
            break
        population = moved
        if all(particle.is_final for particle in population):
            break
    if final == "vote":
        answer = await _voted(steps, population, kind)
    else:
        answer = await steps.answer(max(population, key=rank))
    return structs.replace(answer, usage=spending.usage)


async def _moved(steps: Steps, population: Sequence[Partial], level: int) -> list[Partial]:
    """The population after each unfinished particle took a step. One whose step was blank or cut off is gone."""

    async def move(place: int, particle: Partial) -> Partial | None:
        return particle if particle.is_final else await steps.grown(particle, level, place)

    moved = [particle for particle in await gather(*map(move, range(len(population)), population)) if particle]
    new = distinct(particle for particle in moved if len(particle.steps) > level)
    rated = {worded(particle): particle for particle in await gather(*map(steps.rated, new))}
    return [rated.get(worded(particle), particle) for particle in moved]


def _resampled(population: Sequence[Partial], n: int, chance: random.Random) -> list[Partial]:
    """n particles drawn with replacement, each with the odds of its weight: multinomially, as in the paper."""
    sums = list(accumulate(_weights(population)))
    drawn = [bisect(sums, chance.random() * sums[-1]) for _ in range(n)]
    return [population[min(i, len(population) - 1)] for i in drawn]


def _weights(population: Sequence[Partial]) -> list[float]:
    """The odds that each particle is right: the paper's softmax of the logit of a reward between 0 and 1.

    A whole score from 0 to 10 stands for the middle of its eleventh, so that 10 is not certainty: its odds are 21 to 1.
    Where the score could not be read nothing is known, and the weight is the average of the others.
    """
    odds = [None if p.reward is None else (p.reward + 0.5) / (10.5 - p.reward) for p in population]
    known = [each for each in odds if each is not None]
    average = sum(known) / len(known) if known else 1.0
    return [average if each is None else each for each in odds]


def _chance(request: Request, level: int) -> random.Random:
    """Chance that depends on nothing but the request, its draw and the round."""
    digest = blake2b(msgspec.json.encode((request, level), order="sorted"), digest_size=16).digest()
    return random.Random(int.from_bytes(digest))


async def _voted(steps: Steps, population: Sequence[Partial], kind: str) -> Completion:
    """The answer with the most weight, in the words of the weightiest particle that gives it."""
    pool = distinct(population)
    weights: dict[tuple[str, ...], float] = defaultdict(float)
    for particle, weight in zip(population, _weights(population), strict=True):
        weights[worded(particle)] += weight
    answers = await gather(*(steps.answer(particle, i) for i, particle in enumerate(pool)))
    forms = forms_of(steps.request, answers, kind)
    support: dict[str | None, float] = defaultdict(float)
    for particle, form in zip(pool, forms, strict=True):
        support[form] += weights[worded(particle)] if form is not None else 0.0

    def standing(i: int) -> tuple[float, bool, float]:
        return support[forms[i]], is_whole(answers[i]), weights[worded(pool[i])]

    best = answers[max(range(len(pool)), key=standing)]
    return structs.replace(best, answer=short_answer(steps.request, best, kind))


def _check(particles: int, depth: int, final: str, kind: str) -> None:
    at_least(1, particles=particles, depth=depth)
    if final not in ("best", "vote"):
        raise UsageError(f"final={final!r}: must be 'best' or 'vote'")
    extract("", kind)  # an unknown kind is refused here
