"""Whether what was bred is better: it and the seed prompt on questions that evolution has not seen."""

import asyncio

from msgspec import Struct, structs

from shoal.errors import ShoalError
from shoal.evaluation.comparing import statistics
from shoal.evolution.chance import chance
from shoal.evolution.fitness import Outcome, attempt
from shoal.evolution.surroundings import Breeding
from shoal.evolution.task import Task
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.concurrency import gather

_PLACE = (-1,)  # names the draws, beside those of generations and slots


class Comparison(Struct, frozen=True):
    """The best unit against the seed prompt on held-out `rows`, by the task's metric.

    `difference` is the best unit's figure less the seed's, from `low` to `high` with 95 % confidence (paired: both
    answered the same rows). A row that a call failed on is in neither figure; `failed` counts them. `variant` is the
    way to ask that the unit was best in; the seed is asked so too. `p` is of there being no difference; `wins` are the
    rows on which the unit scored more, `losses` those on which it scored less.
    """

    rows: int
    failed: int
    metric: str
    variant: str
    seed: float
    best: float
    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int

    @property
    def improves(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    @property
    def verdict(self) -> str:
        """In one line, what can be said."""
        said = "improves on" if self.improves else "is worse than" if self.high < 0 else "is not shown to improve on"
        figures = f"{self.metric} {self.best:.3f} against {self.seed:.3f}"
        interval = f"difference {self.difference:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}"
        return f"the prompt that was bred {said} the seed prompt on {self.rows} held-out rows: {figures}, {interval}"


def split(task: Task, seed: int) -> Task:
    """The task with half of its rows held out, drawn by the seed, where it holds none out itself."""
    if task.held_out or len(task.rows) < 2:
        return task
    numbers = list(range(len(task.rows)))
    chance(seed, "held out").shuffle(numbers)
    fit, held_out = sorted(numbers[: (len(numbers) + 1) // 2]), sorted(numbers[(len(numbers) + 1) // 2 :])
    return structs.replace(task, rows=[task.rows[i] for i in fit], held_out=[task.rows[i] for i in held_out])


def seed_unit(task: Task) -> Unit:
    """The seed prompt as a unit of one task prompt."""
    return Unit("seed", (task.seed,), "", task.system_prompt or "", operator="seed")


async def compare(best: Scored, run: Breeding) -> Comparison:
    """Ask both all held-out rows at once. Where no row has an answer of both, the first failure is raised."""
    variant = run.settings.variants[0] if best.variant is None else best.variant
    units, rows = (seed_unit(run.task), best.unit), run.task.held_out
    asked = await gather(*(attempt(unit, run, variant, row, _PLACE) for unit in units for row in rows))
    pairs = list(zip(asked[: len(rows)], asked[len(rows) :], strict=True))
    both: list[tuple[Outcome, Outcome]] = []
    for one, other in pairs:
        if not isinstance(one, ShoalError) and not isinstance(other, ShoalError):
            both.append((one[0], other[0]))
    if not both:
        raise next(one for one in asked if isinstance(one, ShoalError))
    metric = run.task.scorer.metric
    seed, bred = metric.of([one for one, _ in both]), metric.of([other for _, other in both])
    test = await asyncio.to_thread(_test, run, both)
    counts = (test.wins, test.losses, test.ties)
    interval = (test.interval.low, test.interval.high)
    return Comparison(
        len(both), len(rows) - len(both), metric.name, variant, seed, bred, test.value, *interval, test.p, *counts
    )


def _test(run: Breeding, both: list[tuple[Outcome, Outcome]]) -> statistics.Test:
    metric = run.task.scorer.metric
    arms = []
    for arm in zip(*both, strict=True):
        parts = [metric.parts(*outcome) for outcome in arm]
        arms.append(statistics.Rated([score for score, _, _ in arm], parts))
    return statistics.Figures(metric, arms).test(0, 1)
