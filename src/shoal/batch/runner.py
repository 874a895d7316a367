"""A program over many rows: bounded in memory, every result kept before it counts, one failure one record."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from time import monotonic

from msgspec import UNSET, Struct, UnsetType, structs

from shoal.backends import BaseModel
from shoal.batch.allocation import Allocation
from shoal.batch.directory import RunDirectory, write_lines
from shoal.batch.journal import Journal, RowRecorder
from shoal.batch.programs import Returned
from shoal.batch.records import Record, as_output, decode, encode, failed, succeeded
from shoal.batch.rows import Input, Row
from shoal.errors import BudgetExceeded, NotCached, StoreError
from shoal.runtime import allocation, budget, replay, scope
from shoal.runtime.budget import Budget
from shoal.runtime.concurrency import gather, map_bounded
from shoal.runtime.trace import tracing
from shoal.runtime.types import Completion, Usage
from shoal.traces.data import Trace

RowProgram = Callable[[Row], Awaitable[Completion]]
# From a completion and its row: the short answer, and its score where there is something to score against.
Judge = Callable[[Completion, Row], Awaitable[tuple[str | None, float | UnsetType]]]


class Progress(Struct):
    """Where a run stands. `resumed` rows were finished by an earlier process; `usage` is of this process only."""

    total: int
    resumed: int = 0
    finished: int = 0
    failed: int = 0
    scored: int = 0
    score: float = 0.0
    usage: Usage = Usage()
    running: int = 0
    started: float = 0.0

    @property
    def seconds(self) -> float:
        return monotonic() - self.started


class Summary(Struct):
    """A run in numbers. `finished` rows have a result, `failed` ones an error; `score` is the mean over scored rows.

    `usage` is what the rows cost, as their records say, and `dollars` its price where somebody looked it up.
    """

    rows: int
    finished: int = 0
    failed: int = 0
    scored: int = 0
    right: float = 0.0
    calls: int = 0
    cached_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    batch_prompt_tokens: int = 0
    batch_completion_tokens: int = 0
    dollars: float | None = None

    @property
    def usage(self) -> Usage:
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            self.calls,
            self.cached_calls,
            batch_prompt_tokens=self.batch_prompt_tokens,
            batch_completion_tokens=self.batch_completion_tokens,
        )

    @property
    def score(self) -> float | None:
        return self.right / self.scored if self.scored else None

    def add(self, record: Record) -> None:
        self.finished += record.error is None
        self.failed += record.error is not None
        if record.score is not UNSET:
            self.scored += 1
            self.right += record.score
        self.calls += record.usage.calls
        self.cached_calls += record.usage.cached_calls
        self.prompt_tokens += record.usage.prompt_tokens
        self.completion_tokens += record.usage.completion_tokens
        self.batch_prompt_tokens += record.usage.batch_prompt_tokens or 0
        self.batch_completion_tokens += record.usage.batch_completion_tokens or 0


_LEAST_WINDOW, _WIDEST_WINDOW = 64, 4096


def window_for(models: Iterable[BaseModel]) -> int:
    """Rows under way at once: enough to keep every model busy, whatever the technique, and no more."""
    widest = max((base.scheduler.max_in_flight for base in models), default=0)
    return min(max(2 * widest, _LEAST_WINDOW), _WIDEST_WINDOW)


class RowRunner:
    """Runs a program on one row at a time, any number at once; whatever befalls a row is that row's record.

    Where `traced` is set, each row's call tree is kept with its result, but for the numbers in `untraced`. `errors`
    counts failures by type, and `stopped` holds the first BudgetExceeded, if there was one.
    """

    def __init__(self, journal: Journal, *, model: str, technique: str | None, judge: Judge) -> None:
        self.journal = journal
        self.model = model
        self.technique = technique
        self.judge = judge
        self.progress = Progress(0)
        self.errors: Counter[str] = Counter()
        self.stopped: BudgetExceeded | None = None
        self.traced = False
        self.untraced: Collection[int] = ()
        self.on_progress: Callable[[Progress], None] | None = None

    async def run(self, number: int, row: Row, program: RowProgram, *, age: int | None = None) -> Record | None:
        """The row's result, once it is on disk; None where the budget is spent.

        Older rows (smaller ages; by default their numbers) are served first.
        """
        recorder = RowRecorder(self.journal, number)
        self.progress.running += 1
        try:
            with (
                scope.setting(scope.age, number if age is None else age),
                scope.setting(replay.current, recorder),
                tracing("row") if self.traced and number not in self.untraced else nullcontext() as root,
            ):
                record = await self._attempt(number, row, program, recorder)
            if record is not None:
                await self.journal.finish(number, record, Trace.of(root) if root is not None else None)
                self._count(record)
            return record
        finally:
            self.progress.running -= 1
            self.progress.usage = self.progress.usage + recorder.usage

    async def _attempt(self, number: int, row: Row, program: RowProgram, recorder: RowRecorder) -> Record | None:
        try:
            completion = await self._answered(number, row, program, recorder)
            if isinstance(completion, Returned):
                completion = structs.replace(completion, usage=recorder.usage)
            answer, score = await self.judge(completion, row)
        except BudgetExceeded as error:  # the run ends; the row stays undone, to be resumed with a larger budget
            self.stopped = self.stopped or error
            return None
        except (StoreError, NotCached):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return failed(number, row, error, model=self.model, technique=self.technique, usage=recorder.usage)
        except Exception as error:  # noqa: BLE001 - whatever befalls a row is that row's record, and no other's
            return failed(number, row, error, model=self.model, technique=self.technique, usage=recorder.usage)
        return succeeded(
            number, row, completion, model=self.model, technique=self.technique, answer=answer, score=score
        )

    async def _answered(self, number: int, row: Row, program: RowProgram, recorder: RowRecorder) -> Completion:
        return await program(row)

    def _count(self, record: Record) -> None:
        self.progress.finished += 1
        if record.error is not None:
            self.progress.failed += 1
            self.errors[record.error.type] += 1
        if record.score is not UNSET:
            self.progress.scored += 1
            self.progress.score += record.score
        if self.on_progress is not None:
            self.on_progress(self.progress)


class BatchRun(RowRunner):
    """One run of a program over the rows of an input, in its directory; `window` rows are under way at once.

    With `allocation`, which is made for all rows, they are all under way at once and share the budget out among them;
    rows that are done already are followed, so that the others get what they got or would have got.
    """

    def __init__(
        self, directory: RunDirectory, rows: Input, *, model: str, technique: str | None, window: int, judge: Judge
    ) -> None:
        super().__init__(directory.journal, model=model, technique=technique, judge=judge)
        self.directory = directory
        self.rows = rows
        self.window = window
        self.progress = Progress(rows.own)
        self.interrupted = False
        self.limit = Budget()
        self.allocation: Allocation | None = None

    async def execute(self, program: RowProgram, limit: Budget | None = None) -> None:
        """Run what is not done yet. Cancelling it stops cleanly; StoreError (a full disk) stops it too."""
        self.limit = limit or Budget()
        done = self.directory.journal.done()
        done -= {number for number in done if number >= self.rows.count}
        self.progress = Progress(self.rows.own, resumed=len(done), started=monotonic())
        if self.interrupted:  # before it began
            return
        if self.traced:
            await self.directory.journal.keep_traces()
        todo = ((number, row) for number, row in self.rows.numbered() if number not in done and not self.stopped)

        async def one(item: tuple[int, Row]) -> None:
            await self.run(*item, program)

        with scope.setting(budget.current, self.limit):
            if self.allocation is not None:
                rows = self.rows.numbered()
                await gather(*(self._follow(*row, program) if row[0] in done else one(row) for row in rows))
                return
            async for _ in map_bounded(one, todo, self.window):
                pass

    async def _follow(self, number: int, row: Row, program: RowProgram) -> None:
        """Take a finished row's part in the allocation again, from its draws; nothing is asked or kept."""
        recorder = RowRecorder(self.journal, number)
        nothing = Budget()
        nothing.stop("the row is done")
        with (
            suppress(BudgetExceeded),
            scope.setting(budget.current, nothing),
            scope.setting(replay.current, recorder),
        ):
            await self._answered(number, row, program, recorder)

    async def _answered(self, number: int, row: Row, program: RowProgram, recorder: RowRecorder) -> Completion:
        """Run the program, in the row's seat where the budget is allocated."""
        if self.allocation is None:
            return await program(row)
        seat = self.allocation.seat(number, lambda: recorder.usage)
        answered = False
        try:
            with scope.setting(allocation.current, seat):
                completion = await program(row)
            answered = True
            return completion
        finally:
            seat.leave(answered=answered)

    def interrupt(self) -> None:
        """Begin no row and make no call from here on; calls under way finish and are kept."""
        self.interrupted = True
        self.limit.stop("the run was interrupted")
        if self.allocation is not None:
            self.allocation.stop("the run was interrupted")

    def write_output(self, path: Path) -> None:
        """The output, rebuilt from the journal in input order: the same rows always give the same bytes."""
        write_lines(path, self.lines())

    def summary(self) -> "Summary":
        """The whole run so far, earlier processes included."""
        summary = Summary(rows=self.rows.own, seconds=self.progress.seconds)
        for number, line in self.directory.journal.records():
            if number < self.rows.count:
                summary.add(decode(line))
        return summary

    def lines(self) -> Iterator[bytes]:
        """A record a row. Rows that a spent budget left undone say so; those of an interrupted run are missing."""
        kept = self.directory.journal.records()
        if self.stopped is None or self.interrupted:
            yield from (as_output(line) for number, line in kept if number < self.rows.count)
            return
        number_kept, line = next(kept, (-1, b""))
        for number, row in self.rows.numbered():
            if number == number_kept:
                yield as_output(line)
                number_kept, line = next(kept, (-1, b""))
            else:
                yield encode(failed(number, row, self.stopped, model=self.model, technique=self.technique))
