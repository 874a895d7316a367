"""Whether what was bred is better: it and the seed prompt on questions that evolution has not seen."""

import asyncio

from msgspec import Struct, structs

from shoal.batch.rows import Row
from shoal.errors import ShoalError, UsageError
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
    """The task with half of its rows held out, drawn by the seed, where it holds none out itself.

    Rows that ask the same are on the same side.
    """
    if task.held_out or len(task.rows) < 2:
        return task
    asked = [_asked(task, row) for row in task.rows]
    questions = list(dict.fromkeys(asked))
    chance(seed, "held out").shuffle(questions)
    seen = set(questions[: (len(questions) + 1) // 2])
    fit = [row for row, question in zip(task.rows, asked, strict=True) if question in seen]
    held_out = [row for row, question in zip(task.rows, asked, strict=True) if question not in seen]
    return structs.replace(task, rows=fit, held_out=held_out)


def refuse_seen(task: Task) -> None:
    """Raise UsageError where a held-out row asks what prompts are bred on: the comparison would show nothing."""
    seen = {_asked(task, row) for row in task.rows}
    same = [number for number, row in enumerate(task.held_out, 1) if _asked(task, row) in seen]
    if same:
        raise UsageError(
            f"task {task.name}: {len(same)} of {len(task.held_out)} held-out rows are among those that prompts are "
            f"bred on (the first is row {same[0]}); take them out of one of both"
        )


def _asked(task: Task, row: Row) -> str:
    """What a row is to a model: its question, or all of it where the question names no column."""
    return task.question.fill(row) if task.question.names else repr(row)


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
