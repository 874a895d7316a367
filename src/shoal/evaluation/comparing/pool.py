"""The draws of a comparison: kept in its directory, shared by its arms, read again for curves."""

from collections.abc import Hashable, Iterable, Mapping

import msgspec

from shoal.backends import BaseModel
from shoal.errors import NotCached
from shoal.evaluation.comparing.accounting import Question, Tally, Widths, tallied
from shoal.runtime.cache import QUESTION_SIZE, DrawCache, draw_key, question_key
from shoal.runtime.types import Completion, Request, Usage, total

_question = msgspec.json.Decoder(tuple[str, Request]).decode
_completion = msgspec.json.Decoder(Completion).decode


class Pool:
    """The draw cache of one comparison, for models by their identities.

    It keeps what a server's filter cut short, too, for that was paid. `survey` is to be called when all draws are in.
    """

    def __init__(self, cache: DrawCache, bases: Mapping[str, BaseModel]) -> None:
        self.cache = cache
        self._paid: dict[bytes, int] = {}
        self._by_batch: dict[bytes, int] = {}
        self._widths = Widths(bases)
        self._prompts: dict[bytes, int] = {}

    def find(self, key: bytes) -> Completion | None:
        return self.cache.get(key)

    def survey(self) -> None:
        """See how long each question's prompt is (of draws in one request only the first was charged for it), and what
        was spent on each."""
        for key, value in self.cache.store.rows("SELECT key, value FROM draw"):
            usage = _completion(value).usage
            charged, question = usage.prompt_tokens + usage.cached_prompt_tokens, key[:QUESTION_SIZE]
            self._prompts[question] = max(self._prompts.get(question, 0), charged)
            self._paid[key] = usage.total_tokens
            if by_batch := usage.batch_prompt_tokens + usage.batch_completion_tokens:
                self._by_batch[key] = by_batch

    def paid(self, draws: Iterable[bytes]) -> int:
        """The tokens that draws, by their keys, really cost, whoever asked first."""
        return sum(self._paid.get(key, 0) for key in draws)

    def paid_by_batch(self, draws: Iterable[bytes]) -> int:
        """Those of the tokens that were asked for by a provider's batch API."""
        return sum(self._by_batch.get(key, 0) for key in draws)

    def usages(self, draws: Iterable[tuple[bytes, Usage]]) -> dict[str, Usage]:
        """What draws, by their keys, would have cost alone; by the identity of the model."""
        tallies: dict[Hashable, Tally] = {}
        for key, usage in draws:
            tallies.setdefault(key[:QUESTION_SIZE], Tally()).add(usage)
        return tallied(tallies, {question: self._kept(question) for question in tallies})

    def _kept(self, question: Hashable) -> Question:
        rows = self.cache.store.rows("SELECT text FROM question WHERE key = ?", (question,))
        identity, request = _question(rows[0][0]) if rows else ("", Request())
        return self._named(identity, request, bytes(question))  # type: ignore[call-overload]

    def asked(self, identity: str, request: Request) -> Question:
        """What is known of a question."""
        return self._named(identity, request, question_key(identity, request)[0])

    def _named(self, identity: str, request: Request, question: bytes) -> Question:
        return Question(identity, self._prompts.get(question, 0), self._widths.together(identity, request))


Draw = tuple[str, Request]  # asked of the model with this identity


class Meter:
    """A recorder that notes the draws a program asks for, each once."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._noted: dict[Draw, Usage] = {}

    @property
    def usage(self) -> Usage:
        return total(self.usages.values())

    @property
    def usages(self) -> dict[str, Usage]:
        """What the draws would have cost alone, by the identity of the model."""
        tallies: dict[Hashable, Tally] = {}
        for (identity, request), usage in self._noted.items():
            tallies.setdefault((identity, request.question()), Tally()).add(usage.as_cached())
        return tallied(tallies, {draw: self.pool.asked(*draw) for draw in tallies})  # type: ignore[misc]

    def replay(self, identity: str, request: Request) -> Completion | None:
        return None

    async def record(self, identity: str, request: Request, completion: Completion) -> None:
        self.note((identity, request), completion)

    def note(self, draw: Draw, completion: Completion) -> None:
        self._noted.setdefault(draw, completion.usage)


class Reader(Meter):
    """A recorder that gives draws from the pool and lets nothing be asked: NotCached for a draw that is not there.

    `read` holds those that were read before: many readers of one row ask for the same.
    """

    def __init__(self, pool: Pool, read: dict[Draw, Completion]) -> None:
        super().__init__(pool)
        self._read = read

    def replay(self, identity: str, request: Request) -> Completion | None:
        draw = (identity, request)
        kept = self._read.get(draw) or self.pool.find(key_of(identity, request))
        if kept is None:
            raise NotCached(f"draw {request.sample} of {request.text[-60:]!r} is not in the pool")
        self._read[draw] = kept
        self.note(draw, kept)
        return kept


class Keeper:
    """A recorder over the pool itself: for calls that are no arm's own, as those of a model that rates answers."""

    def __init__(self, pool: Pool) -> None:
        self._cache = pool.cache

    def replay(self, identity: str, request: Request) -> Completion | None:
        kept = self._cache.get(key_of(identity, request))
        return None if kept is None else kept.cached()

    async def record(self, identity: str, request: Request, completion: Completion) -> None:
        question, text = question_key(identity, request)
        await self._cache.put(question, text, draw_key(question, request.sample), completion)


def key_of(identity: str, request: Request) -> bytes:
    """The draw's key, in journals and in the pool alike."""
    question, _ = question_key(identity, request)
    return draw_key(question, request.sample)
