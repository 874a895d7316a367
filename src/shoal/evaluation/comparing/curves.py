"""What a technique would have got with fewer draws: run again at smaller sizes on draws that are paid already.

At size n a pool of N draws is cut into N // n pieces of n draws each, where the draws are alike; a row's score is the
mean over the pieces, which is unbiased and steadier than one of them. Elsewhere the first draws are taken. Nothing is
asked: a technique that asks for something else at a smaller size has no point there.
"""

from collections.abc import Sequence

from msgspec import UNSET, Struct

from shoal.batch.rows import Row
from shoal.errors import NotCached, ShoalError
from shoal.evaluation.comparing.pool import Reader
from shoal.evaluation.comparing.result import Interval, Point
from shoal.evaluation.comparing.sizes import resized, size_of
from shoal.evaluation.comparing.statistics import Figures, Rated
from shoal.evaluation.comparing.work import Arm, Work, checked_turn, rating
from shoal.runtime import budget, replay, scope, trace
from shoal.runtime.types import Completion, Usage

Parts = tuple[float, ...]


class _Sample(Struct, frozen=True):
    """What one piece of the pool gives for one row."""

    score: float
    parts: Parts
    usage: Usage | None  # None where it is not known: the row failed as a whole


async def curve(work: Work, arm: Arm, rows: Sequence[int], whole: Point) -> tuple[Point, ...]:
    """The arm at its smaller sizes over the rows of these numbers, then `whole`, the arm itself; empty without any."""
    size = size_of(arm.candidate.model)
    if size is None or not arm.candidate.sizes:
        return ()
    points = []
    for n in arm.candidate.sizes:
        point = None
        if size.exchangeable and size.value // n > 1:
            point = await _Curve(work, arm, rows, n, size.value // n).point()
        point = point or await _Curve(work, arm, rows, n, 1).point()
        if point is not None:
            points.append(point)
    return (*points, whole) if points else ()


class _Curve:
    """One point of a curve: size n on so many pieces of the pool."""

    def __init__(self, work: Work, arm: Arm, rows: Sequence[int], n: int, pieces: int) -> None:
        self.work = work
        self.asked = work.asked
        self.rows = frozenset(rows)
        self.failed = {number for number, failed in arm.place.journal.outcomes().items() if failed}
        self.n = n
        self.models = [resized(arm.candidate.model, n, piece * n) for piece in range(pieces)]
        self.judge = rating(work.asked, work.pool)

    async def point(self) -> Point | None:
        """None where a draw is wanted that is not in the pool."""
        try:
            samples = [
                await self._row(number, row) for number, row in enumerate(self.asked.rows) if number in self.rows
            ]
        except NotCached:
            return None
        metric = self.asked.scorer.metric
        rated = Rated([_mean([one.score for one in row]) for row in samples], [_mean_parts(row) for row in samples])
        figures = Figures(metric, [rated])
        interval: Interval = figures.interval(0)
        costs = [one.usage for row in samples for one in row if one.usage is not None]
        tokens, calls = _mean([one.total_tokens for one in costs]), _mean([one.calls for one in costs])
        return Point(self.n, figures.value(0), interval, tokens, calls)

    async def _row(self, number: int, row: Row) -> list[_Sample]:
        """A row that failed as a whole is wrong at every size: not all of its draws are there."""
        await checked_turn(self.work)
        rated: dict[tuple[str, str | None], tuple[str | None, float]] = {}
        samples = []
        for model in self.models if number not in self.failed else ():
            reader = Reader(self.work.pool)
            with (
                scope.setting(replay.current, reader),
                scope.setting(trace.current, None),
                scope.setting(scope.age, number),
            ):
                completion = await _answered(model(self.asked.request_of(row)))
            answer, score = await self._score(completion, row, rated)
            samples.append(_Sample(score, self._parts(score, answer, row), reader.usage))
        return samples or [_Sample(0.0, self._parts(0.0, None, row), None)]

    async def _score(
        self, completion: Completion | None, row: Row, rated: dict[tuple[str, str | None], tuple[str | None, float]]
    ) -> tuple[str | None, float]:
        """Pieces of one pool often give the same answer: each is rated once."""
        if completion is None:
            return None, 0.0
        key = (completion.text, completion.answer)
        if key not in rated:
            with scope.setting(budget.current, self.work.limit):
                answer, score = await self.judge(completion, row)
            rated[key] = answer, 0.0 if score is UNSET else score
        return rated[key]

    def _parts(self, score: float, answer: str | None, row: Row) -> Parts:
        return self.asked.scorer.metric.parts(score, answer, self.asked.wanted(row))


async def _answered(program: object) -> Completion | None:
    """None where the technique fails on these draws, as it would have then."""
    try:
        return await program  # type: ignore[misc,no-any-return]
    except NotCached:
        raise
    except ShoalError:
        return None


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _mean_parts(samples: Sequence[_Sample]) -> Parts:
    return tuple(_mean(column) for column in zip(*(one.parts for one in samples), strict=True))
