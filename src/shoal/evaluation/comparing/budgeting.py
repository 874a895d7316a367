"""The same budget for every technique: the largest size of each whose cost on a few rows is within it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import msgspec
from msgspec import Struct, structs

from shoal.batch.directory import atomic_writer
from shoal.batch.rows import Row
from shoal.errors import BudgetExceeded, CorruptStore, ShoalError, UsageError, did_you_mean
from shoal.evaluation.comparing.arms import Candidate
from shoal.evaluation.comparing.costs import Prices
from shoal.evaluation.comparing.pool import Meter
from shoal.evaluation.comparing.sizes import resized, size_of
from shoal.evaluation.comparing.work import Asked, Work
from shoal.runtime import budget, replay, scope
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Usage
from shoal.techniques.opening import names

Unit = Literal["tokens", "calls", "dollars"]
_UNITS = ("tokens", "calls", "dollars")
_LARGEST = 4096


class EqualBudget(Struct, frozen=True):
    """What one row may cost, on average, as if the technique were run alone; dollars perhaps `by_batch`: at the price
    of a batch API."""

    unit: Unit
    amount: float
    by_batch: bool = False

    @classmethod
    def parse(cls, text: str, *, by_batch: bool = False) -> "EqualBudget":
        """From `tokens=2000`, `calls=8` or `dollars=0.001`."""
        unit, _, amount = (part.strip() for part in text.partition("="))
        if unit not in _UNITS:
            raise UsageError(f"equal budget {text!r}: {did_you_mean(unit, _UNITS)}")
        try:
            value = float(amount)
        except ValueError:
            raise UsageError(f"equal budget {unit}={amount!r} is not a number") from None
        if not 0 < value < float("inf"):
            raise UsageError(f"equal budget {unit}={amount} must be a finite number above 0")
        return cls(cast(Unit, unit), value, by_batch and unit == "dollars")

    def __str__(self) -> str:
        return f"{self.shown(self.amount)} a row{' by batch' if self.by_batch else ''}"

    def shown(self, amount: float) -> str:
        return f"${amount:.3g}" if self.unit == "dollars" else f"{amount:,.4g} {self.unit}"

    def cost(self, usages: Mapping[str, Usage], prices: Prices) -> float:
        """Of usages by the identity of their model."""
        if self.unit == "dollars":
            return prices.dollars(usages) or 0.0
        return sum(usage.calls if self.unit == "calls" else usage.total_tokens for usage in usages.values())


class Pilot:
    """A few rows, spread over the data, on which sizes are tried. Their draws are in the pool for the run."""

    def __init__(self, work: Work, equal: EqualBudget, prices: Prices, rows: int) -> None:
        self.work = work
        self.equal = equal
        self.prices = prices
        self.rows = pilot_rows(work.asked, rows)

    async def cost(self, model: Model) -> float:
        """The mean cost of a row. Rows that fail are left out; where all do, the first error is raised."""
        found = await gather(*(self._row(number, row, model) for number, row in self.rows))
        costs = [cost for cost in found if isinstance(cost, float)]
        if not costs:
            raise next(error for error in found if isinstance(error, ShoalError))
        return sum(costs) / len(costs)

    async def _row(self, number: int, row: Row, model: Model) -> float | ShoalError:
        meter = Meter(self.work.pool)
        try:
            with (
                scope.setting(replay.current, meter),
                scope.setting(scope.age, number),
                scope.setting(budget.current, self.work.limit),
            ):
                await model(self.work.asked.request_of(row))
        except BudgetExceeded:
            raise
        except ShoalError as error:
            return error
        return float(self.equal.cost(meter.usages, self.prices))


def pilot_rows(asked: Asked, rows: int) -> list[tuple[int, Row]]:
    """So many rows from all parts of the data, with their numbers."""
    count = asked.rows.count
    numbers = {i * count // min(rows, count) for i in range(min(rows, count))}
    return [(number, row) for number, row in enumerate(asked.rows) if number in numbers]


async def fitted(candidates: Sequence[Candidate], pilot: Pilot, kept: Path) -> tuple[list[Candidate], list[str]]:
    """Each candidate at the largest size within the budget, and what is to be said of that.

    What was chosen is kept in a file, so that a comparison that is resumed goes on with the same arms.
    """
    sizes = read_sizes(kept)
    notes: list[str] = []

    async def fit(candidate: Candidate) -> Candidate:
        if size_of(candidate.model) is None:
            return candidate
        key = size_key(pilot.equal, len(pilot.rows), candidate)
        if key not in sizes:
            try:
                sizes[key] = await largest(lambda n: pilot.cost(resized(candidate.model, n)), pilot.equal.amount)
            except BudgetExceeded:
                raise
            except ShoalError as error:
                notes.append(f"{candidate.name} is compared as it stands: it failed on the pilot rows ({error})")
                return candidate
        return at_size(candidate, sizes[key])

    found = await gather(*map(fit, candidates))
    different: dict[str, Candidate] = {}
    for before, candidate in zip(candidates, found, strict=True):
        if different.setdefault(candidate.name, candidate) is not candidate:
            notes.append(f"{before.name} comes to {candidate.name} as well: compared once")
    with atomic_writer(kept) as out:
        out.write(msgspec.json.format(msgspec.json.encode(sizes, order="sorted"), indent=2) + b"\n")
    return list(different.values()), notes


def read_sizes(kept: Path) -> dict[str, int]:
    """What was chosen before."""
    try:
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, int]) if kept.exists() else {}
    except msgspec.DecodeError as error:
        raise CorruptStore(f"{kept}: damaged ({error}); remove it to choose the sizes anew") from None


def size_key(equal: EqualBudget, rows: int, candidate: Candidate) -> str:
    """The name under which a size is kept."""
    return f"{equal} on {rows} rows: {candidate.spec}"


def at_size(candidate: Candidate, size: int) -> Candidate:
    """The candidate with another size."""
    model = resized(candidate.model, size)
    base, techniques = names(model)
    name = f"{techniques}@{base}" if candidate.name.endswith(f"@{base}") else str(techniques)
    return structs.replace(candidate, name=name, spec=f"{techniques}@{base}", model=model)


async def largest(cost: Callable[[int], Awaitable[float]], limit: float) -> int:
    """The largest size whose cost is within the limit, 1 where none is. Costs are taken to grow with the size.

    It is looked for from below: were all of a cost in proportion to the size, the next step would be the last.
    """
    fits, over, size = 0, _LARGEST + 1, 1
    while over - fits > 1:
        found = await cost(size)
        if found > limit:
            over = size
            size = (fits + over) // 2
        else:
            fits = size
            reach = int(size * limit / found) if found > 0 else over
            size = min(max(fits + 1, min(reach, 8 * fits)), (fits + over) // 2 if over <= _LARGEST else _LARGEST)
    return max(fits, 1)
