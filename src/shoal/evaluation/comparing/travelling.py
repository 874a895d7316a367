"""Comparisons by a provider's batch API: whose calls travel, where their waves are kept, what is told of them."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from shoal.backends import BaseModel
from shoal.batch.waves import of_one_endpoint
from shoal.errors import UsageError
from shoal.evaluation.comparing.pool import Pool
from shoal.runtime.cache import DrawCache
from shoal.techniques.opening import names
from shoal.traces import words


class ReportDirectory:
    """The home of a comparison's waves. What they brought is kept once it is among the comparison's draws."""

    def __init__(self, path: Path, draws: DrawCache) -> None:
        self.path = path
        self.keeps = draws.has

    def finished(self) -> bool:
        """Never: a technique that is compared later may need what waves hold."""
        return False


def travelling(compared: Sequence[object], others: Iterable[object] = ()) -> list[BaseModel]:
    """The base models whose calls go by the batch API: all that are compared, and of the others whose endpoint it is.

    UsageError where one that is compared has no batch API, or is at another endpoint than the first.
    """
    found = of_one_endpoint([*compared, *others])
    for model in compared:
        if not any(base in found for base in of_one_endpoint([model])):
            first, other = names(compared[0])[0], names(model)[0]
            raise UsageError(f"--batch-api is for one endpoint; {other} is at another than {first}: compare them apart")
    return found


def price_notes(pool: Pool, draws: Collection[bytes], by_batch: Sequence[str]) -> list[str]:
    """What the dollars and seconds mean of a comparison that paid for `draws`; `by_batch` are the models whose dollars
    are those of the batch API."""
    paid, batched = pool.paid(draws), pool.paid_by_batch(draws)
    if not batched and not by_batch:
        return []
    part = "" if batched == paid else f"{words.count(batched)} of {words.count(paid)} tokens "
    priced = f"as if all calls to {', '.join(by_batch)} went by it" if by_batch else "as if all calls were live"
    return [
        f"{part}asked by the batch API{', the others live' if part else ''}: dollars are {priced}, and seconds, of "
        "which batches tell nothing, are left out"
    ]
