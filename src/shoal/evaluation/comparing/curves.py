"""What a technique would have got with fewer draws: run again at smaller sizes on draws that are paid already.

At size n a pool of N draws is cut into N // n pieces of n draws each, where the draws are alike; a row's score is the
mean over the pieces, which is unbiased and steadier than one of them. Elsewhere the first draws are taken. Nothing is
asked: a technique that asks for something else at a smaller size has no point there.
"""

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from itertools import islice

from msgspec import UNSET, Struct

from shoal.batch.rows import Row
from shoal.errors import NotCached, ShoalError
from shoal.evaluation.comparing.pool import Draw, Reader
from shoal.evaluation.comparing.result import Point
from shoal.evaluation.comparing.sizes import resized, size_of
from shoal.evaluation.comparing.statistics import Figures, Rated
from shoal.evaluation.comparing.work import Arm, Work, checked_turn, rating
from shoal.runtime import budget, replay, scope, trace
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Usage

Parts = tuple[float, ...]


class _Drawn(Struct, frozen=True):
    """What one piece of the pool gives for one row: nothing where the technique fails on it."""

    row: "_Row"
    completion: Completion | None
    usage: Usage | None


class _Sample(Struct, frozen=True):
    """The same, rated. `usage` is None where the row failed as a whole."""

    score: float
    parts: Parts
    usage: Usage | None


class _Size:
    """One point in the making: the technique at size n on each piece of the pool, and what came of it row by row."""

    def __init__(self, arm: Arm, n: int, pieces: int) -> None:
        self.n = n
        self.models: list[Model] = [resized(arm.candidate.model, n, piece * n) for piece in range(pieces)]
        self.rows: list[list[_Sample]] = []
        self.drawn: list[list[_Drawn]] = []  # rows that are not rated yet

    async def add(self, row: "_Row") -> None:
        """Once a row wants a draw that is not in the pool, only the first piece is taken, of earlier rows too."""
        while self.models:
            try:
                self.drawn.append([await row.draw(model) for model in self.models])
                return
            except NotCached:
                self._take_less()

    def rate(self) -> None:
        """See what the ratings of the rows added are; one that is not kept is as a draw that is not."""
        found = [[one.row.sample(one) for one in drawn] for drawn in self.drawn]
        self.drawn = []
        while self.models and any(sample is None for samples in found for sample in samples):
            self._take_less()
            found = [samples[: len(self.models)] for samples in found]
        self.rows += [[sample for sample in samples if sample is not None] for samples in found]

    def _take_less(self) -> None:
        """The first piece alone; without that nothing."""
        self.models = self.models[: len(self.models) > 1]
        self.rows = [samples[:1] for samples in self.rows]
        self.drawn = [drawn[:1] for drawn in self.drawn]

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
    found = (_Row(work, i, row, failed=i in failed) for i, row in enumerate(work.asked.rows) if i in wanted)
    # A model that rates is asked about many rows at once.
    together = arm.batch.window if work.asked.scorer.models else 1
    while some := list(islice(found, together)):
        await _add(work, sizes, some)
    points = [point for each in sizes if (point := each.point(work)) is not None]
    return (*points, whole) if points else ()


async def _add(work: Work, sizes: Sequence[_Size], rows: "Sequence[_Row]") -> None:
    for row in rows:
        for each in sizes:
            await checked_turn(work)
            await each.add(row)
    answers = [one for each in sizes for drawn in each.drawn for one in drawn if one.completion is not None]
    await gather(*(one.row.rate(one.completion) for one in answers if one.completion is not None))
    for each in sizes:
        each.rate()


class _Row:
    """A row on its draws. One that failed as a whole is wrong at every size: not all of its draws are there."""

    def __init__(self, work: Work, number: int, row: Row, *, failed: bool) -> None:
        self._work = work
        self._number = number
        self._row = row
        self._failed = failed
        self._read: dict[Draw, Completion] = {}
        self._judge = rating(work.asked, work.pool)
        self._rated: dict[tuple[str, str | None], tuple[str | None, float] | None] = {}

    async def draw(self, model: Model) -> _Drawn:
        """NotCached where the model asks for a draw that is not in the pool."""
        if self._failed:
            return _Drawn(self, None, None)
        reader = Reader(self._work.pool, self._read)
        with (
            scope.setting(replay.current, reader),
            scope.setting(trace.current, None),
            scope.setting(scope.age, self._number),
        ):
            completion = await _answered(model(self._work.asked.request_of(self._row)))
        return _Drawn(self, completion, reader.usage)

    async def rate(self, completion: Completion) -> None:
        """Have an answer rated. Pieces of one pool often give the same one, which is rated once."""
        key = (completion.text, completion.answer)
        if key in self._rated:
            return
        self._rated[key] = None
        with scope.setting(budget.current, self._work.limit), suppress(NotCached):
            answer, score = await self._judge(completion, self._row)
            self._rated[key] = answer, 0.0 if score is UNSET else score

    def sample(self, drawn: _Drawn) -> _Sample | None:
        """What was drawn, with its rating; None where that is not kept and was not to be asked for."""
        rated = (None, 0.0) if drawn.completion is None else self._rated[drawn.completion.text, drawn.completion.answer]
        if rated is None:
            return None
        answer, score = rated
        asked = self._work.asked
        parts = asked.scorer.metric.parts(score, answer, asked.wanted(self._row))
        return _Sample(score, parts, drawn.usage)


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
