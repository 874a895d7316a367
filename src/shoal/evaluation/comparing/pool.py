"""The draws of a comparison: kept in its directory, shared by its arms, and what each of them cost when it was paid."""

import msgspec

from shoal.errors import NotCached
from shoal.runtime.cache import QUESTION_SIZE, DrawCache, draw_key, question_key
from shoal.runtime.types import Completion, Request, Usage, total

_identity = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode


class Pool:
    """The draw cache of one comparison. It keeps what a server's filter cut short, too, for that was paid."""

    def __init__(self, cache: DrawCache) -> None:
        self.cache = cache
        self._asked_of: dict[bytes, str] = {}

    def find(self, key: bytes) -> Completion | None:
        return self.cache.get(key)

    def asked_of(self, key: bytes) -> str:
        """The identity of the model that a draw was asked of."""
        question = key[:QUESTION_SIZE]
        if question not in self._asked_of:
            rows = self.cache.store.rows("SELECT text FROM question WHERE key = ?", (question,))
            self._asked_of[question] = _identity(rows[0][0])[0] if rows else ""
        return self._asked_of[question]

    def spent(self) -> int:
        """The tokens of all draws that were ever paid in this directory."""
        decode = msgspec.json.Decoder(Completion).decode
        return sum(decode(value).usage.total_tokens for (value,) in self.cache.store.rows("SELECT value FROM draw"))


def alone(usage: Usage) -> Usage:
    """The same draws with nothing had for nothing."""
    return Usage(
        usage.prompt_tokens + usage.cached_prompt_tokens,
        usage.completion_tokens + usage.cached_tokens - usage.cached_prompt_tokens,
        usage.calls + usage.cached_calls,
        estimated=usage.estimated,
    )


Draw = tuple[str, Request]  # asked of the model with this identity


class Meter:
    """A recorder that notes the draws a program asks for, each once, as if it were alone."""

    def __init__(self) -> None:
        self._usages: dict[Draw, Usage] = {}

    @property
    def usage(self) -> Usage:
        return total(self._usages.values())

    @property
    def usages(self) -> dict[str, Usage]:
        """By the identity of the model."""
        found: dict[str, Usage] = {}
        for (identity, _), usage in self._usages.items():
            found[identity] = found.get(identity, Usage()) + usage
        return found

    def replay(self, identity: str, request: Request) -> Completion | None:
        return None

    async def record(self, identity: str, request: Request, completion: Completion) -> None:
        self.note((identity, request), completion)

    def note(self, draw: Draw, completion: Completion) -> None:
        self._usages.setdefault(draw, alone(completion.usage))


class Reader(Meter):
    """A recorder that gives draws from the pool and lets nothing be asked: NotCached for a draw that is not there.

    `read` holds those that were read before: many readers of one row ask for the same.
    """

    def __init__(self, pool: Pool, read: dict[Draw, Completion]) -> None:
        super().__init__()
        self._pool = pool
        self._read = read

    def replay(self, identity: str, request: Request) -> Completion | None:
        draw = (identity, request)
        kept = self._read.get(draw) or self._pool.find(key_of(identity, request))
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
