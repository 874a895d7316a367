"""What an arm would have cost alone, and what was paid for it: summed over the draws in its journal, each once."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.config import Config
from shoal.backends.prices import NoPrice, Quote, prices_of, quote
from shoal.errors import UsageError
from shoal.evaluation.comparing.pool import Pool
from shoal.evaluation.comparing.timing import Latencies, mean_seconds
from shoal.evaluation.comparing.work import Arm
from shoal.runtime.types import Usage


class Prices:
    """What models, by their identities, cost in dollars. Where a price depends, as on the prompt's length, the higher
    one is taken. Of those in `by_batch` it is the price of their provider's batch API."""

    def __init__(self, config: Config, bases: Mapping[str, BaseModel], by_batch: Collection[str] = ()) -> None:
        given = prices_of(config)
        self._quotes = {identity: quote(base, given, by_batch=identity in by_batch) for identity, base in bases.items()}
        self.by_batch = sorted(base.name for identity, base in bases.items() if identity in by_batch)

    def check(self) -> None:
        """UsageError where a budget in dollars says nothing: a price is not known, or all are 0."""
        unknown = [each.reason for each in self._quotes.values() if isinstance(each, NoPrice)]
        if unknown:
            raise UsageError(f"an equal budget in dollars needs prices: {unknown[0]}")
        if not any(self.dollars({identity: Usage(1, 1, 1)}) for identity in self._quotes):
            raise UsageError("an equal budget in dollars needs a model that costs some; give it in tokens")

    def dollars(self, usages: Mapping[str, Usage]) -> float | None:
        """What usages come to; None where one model's price is not known."""
        dollars = 0.0
        for identity, usage in usages.items():
            quoted = self._quotes.get(identity)
            if not isinstance(quoted, Quote):
                return None
            dollars += quoted.most.dollars(usage.prompt_tokens, usage.completion_tokens)
        return dollars


class Spent(Struct, frozen=True):
    """An arm's costs: `usages` as if alone, by the identity of the model; `paid` tokens in this comparison.

    `requests` carried its draws, of these `keys`, to a server; None where the server does not name its replies.
    `seconds` are a row's, None where they are not known, as of calls that went by a batch API.
    """

    usages: dict[str, Usage]
    paid: int
    requests: int | None
    keys: frozenset[bytes]
    seconds: float | None

    @property
    def usage(self) -> Usage:
        whole = Usage()
        for usage in self.usages.values():
            whole = whole + usage
        return whole


def cost_of(arm: Arm, pool: Pool, latencies: Latencies) -> Spent:
    """What an arm spent."""
    draws = [(key, completion.usage, completion.id) for key, completion in arm.place.journal.draws()]
    replies = {id_ for _, _, id_ in draws}
    keys = frozenset(key for key, _, _ in draws)
    return Spent(
        pool.usages((key, usage) for key, usage, _ in draws),
        sum(usage.total_tokens for _, usage, _ in draws),
        len(replies) if replies and None not in replies else None,
        keys,
        None if pool.paid_by_batch(keys) else mean_seconds(arm.place.journal, latencies),
    )
