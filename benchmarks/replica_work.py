"""The work that replicas are given: rows for techniques of the catalogue, and prompts that share beginnings."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shoal.backends import BaseModel
from shoal.runtime.model import then
from shoal.runtime.types import Completion, Message, Request
from shoal.techniques.opening import from_bases

_PLACES = ("harbour", "marina", "fjord", "lagoon", "estuary", "island", "canal", "delta", "reef", "bay")
Program = Callable[[Request], Awaitable[Completion]]


@dataclass(frozen=True)
class Work:
    """Rows made from a seed, and what is done with each: a technique, or a conversation of some `turns`.

    `fused` is whether the servers give several draws a request; `limit` the requests at once at each (None: the
    client's own). `slowness` is how many times longer the first replica takes for everything,
    `dies_s` when it dies.
    """

    name: str
    rows: Callable[[random.Random], list[Request]]
    technique: str = ""
    turns: int = 1
    fused: bool = True
    limit: int | None = None
    slowness: float = 1.0
    dies_s: float | None = None
    policies: tuple[str, ...] = ()

    def program(self, base: BaseModel) -> Program:
        model = from_bases(f"{self.technique}@replicas" if self.technique else "replicas", lambda _: base)

        async def talk(request: Request) -> Completion:
            completion = await model(request)
            for turn in range(1, self.turns):
                request = then(request, completion.text, f"And for {turn + 1} more boats at each quay?")
                completion = await model(request)
            return completion

        return talk


def _text(chance: random.Random, tokens: int) -> str:
    """About so many tokens of 4 characters that nothing else begins with."""
    sentences, length = [], 0
    while length < 4 * tokens:
        place, number = chance.choice(_PLACES), chance.randrange(1000, 9999)
        sentences.append(f"In {place} {number} lie {chance.randrange(2, 99)} boats at each of the quays. ")
        length += len(sentences[-1])
    return "".join(sentences)


def _asked(chance: random.Random, tokens: int, system: str | None = None) -> Request:
    question = f"{_text(chance, tokens)}How many boats lie in all of them together?"
    told = [Message("system", system)] if system is not None else []
    return Request(messages=(*told, Message("user", question)))


def alone(rows: int, tokens: int) -> Callable[[random.Random], list[Request]]:
    """Questions that share nothing."""
    return lambda chance: [_asked(chance, tokens) for _ in range(rows)]


def under(prefixes: int, long: int, rows: int, tokens: int) -> Callable[[random.Random], list[Request]]:
    """Questions under `prefixes` different system prompts of `long` tokens, mixed."""

    def make(chance: random.Random) -> list[Request]:
        systems = [_text(chance, long) for _ in range(prefixes)]
        return [_asked(chance, tokens, chance.choice(systems)) for _ in range(rows)]

    return make


def hot(share: float, prefixes: int, long: int, rows: int, tokens: int) -> Callable[[random.Random], list[Request]]:
    """As `under`, but `share` of the rows are under the first."""

    def make(chance: random.Random) -> list[Request]:
        systems = [_text(chance, long) for _ in range(prefixes)]
        pick = [systems[0] if chance.random() < share else chance.choice(systems[1:]) for _ in range(rows)]
        return [_asked(chance, tokens, system) for system in pick]

    return make


_VOTE = "self_consistency(n=8)"
_PLAIN = ("affinity", "least loaded", "round-robin")
_SPREAD = (*_PLAIN, "random")
_BOUND = (*_PLAIN, "one cache")
_LATE = ("affinity", "round-robin")
_ALONE = alone(600, 500)

WORKS = [
    Work("beam_search", alone(200, 500), "beam_search", policies=_BOUND),
    Work("96 of 6,000, 16 at once", under(96, 6000, 1500, 100), limit=16, policies=_BOUND),
    Work("conversations of 8 turns", under(1, 1000, 600, 300), turns=8, policies=_BOUND),
    Work("vote of 8, a request a draw", _ALONE, _VOTE, fused=False, policies=_BOUND),
    Work("96 system prompts of 6,000", under(96, 6000, 1500, 100), policies=_SPREAD),
    Work("vote of 8, n=8", _ALONE, _VOTE, policies=_SPREAD),
    Work("hot, 16 at once", hot(0.7, 32, 6000, 1500, 100), limit=16, policies=_PLAIN),
    Work("one of 32 prompts is hot (70 %)", hot(0.7, 32, 6000, 1500, 100), policies=_PLAIN),
    Work("mcts", alone(200, 500), "mcts", policies=_BOUND),
    Work("rstar", alone(100, 500), "rstar", policies=_BOUND),
    Work("conversations, 32 at once", under(1, 1000, 600, 300), turns=8, limit=32, policies=_PLAIN),
    Work("one system prompt of 4,000", under(1, 4000, 2000, 100), policies=_PLAIN),
    Work("vote of 8, 64 at once", _ALONE, _VOTE, limit=64, policies=_LATE),
    Work("vote, one replica 4 x slower", _ALONE, _VOTE, slowness=4.0, policies=_LATE),
    Work("the same, 64 at once", _ALONE, _VOTE, limit=64, slowness=4.0, policies=_LATE),
    Work("vote, one replica dies after 14 s", _ALONE, _VOTE, dies_s=14.0, policies=("affinity",)),
    Work("the same death, 64 at once", _ALONE, _VOTE, limit=64, dies_s=14.0, policies=("affinity",)),
]
