"""What a technique would have got with fewer draws: run again at smaller sizes on draws that are paid already.

At size n a pool of N draws is cut into N // n pieces of n draws each, where the draws are alike; a row's score is the
mean over the pieces, which is unbiased and steadier than one of them. Elsewhere the first draws are taken. Nothing is
asked: a technique that asks for something else at a smaller size has no point there.
"""

from collections.abc import Awaitable, Sequence

from msgspec import UNSET, Struct

from shoal.batch.rows import Row
from shoal.errors import NotCached, ShoalError
from shoal.evaluation.comparing.pool import Draw, Reader
from shoal.evaluation.comparing.result import Point
from shoal.evaluation.comparing.sizes import resized, size_of
from shoal.evaluation.comparing.statistics import Figures, Rated
from shoal.evaluation.comparing.work import Arm, Work, checked_turn, rating
from shoal.runtime import budget, replay, scope, trace
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Usage

Parts = tuple[float, ...]
Rating = tuple[str | None, float]


class _Sample(Struct, frozen=True):
    """What one piece of the pool gives for one row. `usage` is None where the row failed as a whole."""

    score: float
    parts: Parts
    usage: Usage | None


class _Size:
    """One point in the making: the technique at size n on each piece of the pool, and what came of it row by row."""

    def __init__(self, arm: Arm, n: int, pieces: int) -> None:
        self.n = n
        self.models: list[Model] = [resized(arm.candidate.model, n, piece * n) for piece in range(pieces)]
        self.rows: list[list[_Sample]] = []

    async def add(self, row: "_Row") -> None:
        """Once a row wants a draw that is not in the pool, only the first piece is taken, of earlier rows too."""
        while self.models:
            try:
                self.rows.append([await row.sample(model) for model in self.models])
                return
            except NotCached:
                self.models = self.models[: len(self.models) > 1]
                self.rows = [samples[:1] for samples in self.rows]

    def point(self, work: Work) -> Point | None:
        if not self.models:
            return None
        scores = [_mean([one.score for one in row]) for row in self.rows]
        parts = [tuple(map(_mean, zip(*(one.parts for one in row), strict=True))) for row in self.rows]
        figures = Figures(work.asked.scorer.metric, [Rated(scores, parts)])
        costs = [one.usage for row in self.rows for one in row if one.usage is not None]
        tokens, calls = _mean([one.total_tokens for one in costs]), _mean([one.calls for one in costs])
        return Point(self.n, figures.value(0), figures.interval(0), tokens, calls)


async def curve(work: Work, arm: Arm, rows: Sequence[int], whole: Point) -> tuple[Point, ...]:
    """The arm at its smaller sizes over the rows of these numbers, then `whole`, the arm itself; empty without any."""
    size = size_of(arm.candidate.model)
    if size is None or not arm.candidate.sizes:
        return ()
    sizes = [_Size(arm, n, size.value // n if size.exchangeable else 1) for n in arm.candidate.sizes]
    failed = {number for number, failed in arm.place.journal.outcomes().items() if failed}
    wanted = frozenset(rows)
    for number, row in enumerate(work.asked.rows):
        if number in wanted:
            one = _Row(work, number, row, failed=number in failed)
            for each in sizes:
                await checked_turn(work)
                await each.add(one)
    points = [point for each in sizes if (point := each.point(work)) is not None]
    return (*points, whole) if points else ()


class _Row:
    """A row on its draws. One that failed as a whole is wrong at every size: not all of its draws are there."""

    def __init__(self, work: Work, number: int, row: Row, *, failed: bool) -> None:
        self._work = work
        self._number = number
        self._row = row
        self._failed = failed
        self._read: dict[Draw, Completion] = {}
        self._judge = rating(work.asked, work.pool)
        self._rated: dict[tuple[str, str | None], Rating] = {}

    async def sample(self, model: Model) -> _Sample:
        """NotCached where the model asks for a draw that is not in the pool."""
        if self._failed:
            return _Sample(0.0, self._parts(0.0, None), None)
        reader = Reader(self._work.pool, self._read)
        with (
            scope.setting(replay.current, reader),
            scope.setting(trace.current, None),
            scope.setting(scope.age, self._number),
        ):
            completion = await _answered(model(self._work.asked.request_of(self._row)))
        answer, score = (None, 0.0) if completion is None else await self._rate(completion)
        return _Sample(score, self._parts(score, answer), reader.usage)

    async def _rate(self, completion: Completion) -> Rating:
        """Pieces of one pool often give the same answer: each is rated once."""
        key = (completion.text, completion.answer)
        if key not in self._rated:
            with scope.setting(budget.current, self._work.limit):
                answer, score = await self._judge(completion, self._row)
            self._rated[key] = answer, 0.0 if score is UNSET else score
        return self._rated[key]

    def _parts(self, score: float, answer: str | None) -> Parts:
        asked = self._work.asked
        return asked.scorer.metric.parts(score, answer, asked.wanted(self._row))


async def _answered(program: Awaitable[Completion]) -> Completion | None:
    """None where the technique fails on these draws, as it would have then."""
    try:
        return await program
    except NotCached:
        raise
    except ShoalError:
        return None


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
