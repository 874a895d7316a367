"""Partial solutions that grow step by step, and what a process reward says of them."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from shoal.errors import TechniqueError
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques._judging import score
from shoal.techniques._steps import (
    ask_answer,
    ask_step,
    ask_step_rating,
    is_answer,
    is_final,
    joined,
    said_step,
    wording,
    write_answer,
)


class Partial(Struct, frozen=True):
    """The steps so far, whether they are all there are to be, and their reward; None where it could not be read."""

    steps: tuple[str, ...] = ()
    is_final: bool = False
    reward: float | None = None


def rank(partial: Partial) -> tuple[bool, float]:
    """What to compare by: a higher reward is better, and any is better than one that could not be read."""
    return partial.reward is not None, partial.reward or 0.0


class Steps(Struct):
    """How the partial solutions of one question grow and are rewarded."""

    model: Model
    request: Request
    judge: Model
    reward: Literal["judge", "logprobs"]

    async def grown(self, partial: Partial, *draw: int) -> Partial | None:
        """The partial solution with a next step, whose reward is known where its own likelihood is the reward.

        None where the step is blank or was cut off.
        """
        wish = ask_step(self.request, partial.steps).draw(*draw)
        if self.reward == "logprobs":
            wish = wish.with_params(logprobs=True)
        reply = await self.model(wish)
        step = said_step(reply)
        if not step or reply.finish_reason == "length":
            return None
        likelihood = _mean_logprob(reply) if self.reward == "logprobs" else None
        return Partial((*partial.steps, step), is_final(step), likelihood)

    async def rated(self, partial: Partial) -> Partial:
        """The partial solution with the judge's score of all its steps, from 0 to 10."""
        verdict = await self.judge(ask_step_rating(self.request, partial.steps))
        return Partial(partial.steps, partial.is_final, score(verdict))

    async def answer(self, partial: Partial, *draw: int) -> Completion:
        """The answer that the steps are, or else one written from them; with `draw` as one answer of several."""
        if not partial.steps:
            raise TechniqueError("each first step that the model gave was blank or cut off")
        if is_answer(self.request, partial.steps):
            return Completion(joined(partial.steps))
        if draw:
            return await self.model(ask_answer(self.request, partial.steps).draw(*draw))
        return await write_answer(self.model, self.request, partial.steps)


def _mean_logprob(reply: Completion) -> float | None:
    tokens = [token.logprob for token in reply.logprobs or ()]
    return sum(tokens) / len(tokens) if tokens else None


def distinct(partials: Iterable[Partial | None]) -> list[Partial]:
    """Those that are there, each wording once, in order. Case and white space do not make another wording."""
    found: dict[tuple[str, ...], Partial] = {}
    for partial in partials:
        if partial is not None:
            found.setdefault(worded(partial), partial)
    return list(found.values())


def worded(partial: Partial) -> tuple[str, ...]:
    return tuple(map(wording, partial.steps))
