"""What an arm would have cost alone, and what was paid for it: summed over the draws in its journal, each once."""

from collections.abc import Mapping

from msgspec import Struct

from shoal.backends.config import Config
from shoal.backends.tables import tables_as
from shoal.evaluation.comparing.pool import Pool
from shoal.evaluation.comparing.timing import Latencies, mean_seconds
from shoal.evaluation.comparing.work import Arm
from shoal.runtime.types import Usage

_TOKENS = 1_000_000  # prices are for as many


class Price(Struct, frozen=True):
    """Dollars a million tokens."""

    input: float
    output: float


class Prices:
    """What models cost, by the configuration's [prices]; `names` are the models' names by their identities."""

    def __init__(self, config: Config, names: Mapping[str, str]) -> None:
        self._prices = tables_as(Price, config.prices, f"{config.file} [prices")
        self._names = names

    @property
    def unknown(self) -> list[str]:
        """The models without a price."""
        return sorted({name for name in self._names.values() if name not in self._prices})

    def dollars(self, usages: Mapping[str, Usage]) -> float | None:
        """What usages, by the identity of their model, come to; None where one has no price."""
        dollars = 0.0
        for identity, usage in usages.items():
            price = self._prices.get(self._names.get(identity, ""))
            if price is None:
                return None
            dollars += (usage.prompt_tokens * price.input + usage.completion_tokens * price.output) / _TOKENS
        return dollars


class Spent(Struct, frozen=True):
    """An arm's costs: `usages` as if alone, by the identity of the model; `paid` tokens in this comparison.

    `requests` carried its draws to a server; None where the server does not name its replies.
    """

    usages: dict[str, Usage]
    paid: int
    requests: int | None
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
    return Spent(
        pool.usages((key, usage) for key, usage, _ in draws),
        sum(usage.total_tokens for _, usage, _ in draws),
        len(replies) if replies and None not in replies else None,
        mean_seconds(arm.place.journal, latencies),
    )
