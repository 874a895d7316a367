"""A comparison at work: every arm a run in a directory of its own, all at once, on one pool of draws."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, UnsetType

from shoal.batch.directory import RunDirectory
from shoal.batch.records import Record, decode
from shoal.batch.rows import Input, Row
from shoal.batch.runner import BatchRun, Judge, window_for
from shoal.errors import BudgetExceeded, ShoalError, UsageError
from shoal.evaluation.comparing.arms import Candidate
from shoal.evaluation.comparing.pool import Keeper, Pool
from shoal.evaluation.comparing.timing import Latencies
from shoal.evaluation.scorers import Scorer
from shoal.runtime import replay, scope, trace
from shoal.runtime.budget import Budget
from shoal.runtime.concurrency import gather
from shoal.runtime.types import Completion, Request
from shoal.techniques.bounds import bound
from shoal.techniques.opening import bases, identities


class Asked(Struct, frozen=True):
    """What every arm is asked about every row, and how its answers are rated.

    `target` is the column with the expected answer, None where the scorer needs none; `identity` what the requests are
    made from, as JSON can hold it; `left_out` how many rows had no target.
    """

    rows: Input
    request_of: Callable[[Row], Request]
    target: str | None
    scorer: Scorer
    identity: dict[str, Any]
    left_out: int = 0

    def wanted(self, row: Row) -> object:
        """The row's target."""
        return None if self.target is None else row.get(self.target)


class Arm:
    """One arm: its run, and the error that ended it, where one did."""

    def __init__(self, candidate: Candidate, place: RunDirectory, batch: BatchRun) -> None:
        self.candidate = candidate
        self.place = place
        self.batch = batch
        self.error: ShoalError | None = None

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def width(self) -> int:
        """The calls of a row, at the most; 0 where that is not known."""
        try:
            return bound(self.candidate.model).calls
        except UsageError:
            return 0

    def records(self) -> list[Record]:
        """Of every row, in order."""
        rows = self.batch.rows.count
        return [decode(line) for number, line in self.place.journal.records() if number < rows]


class Work:
    """The arms of a comparison at work in its directory, each in arms/NAME. Use as a context manager.

    The same arms in the same directory go on where they stood; an arm more asks only for the draws that no other has
    asked for. `interrupt` begins nothing more. Where calls travel by a batch API, at most `asleep` rows wait for them.
    """

    def __init__(
        self, asked: Asked, pool: Pool, directory: Path, limit: Budget | None = None, asleep: int | None = None
    ) -> None:
        self.asked = asked
        self.pool = pool
        self.directory = directory
        self.limit = limit or Budget()
        self.latencies = Latencies(directory / "latencies.json")
        self.arms: list[Arm] = []
        self.interrupted = False
        self.on_start: Callable[[], None] = lambda: None
        self._asleep = asleep
        self._places = ExitStack()

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *_: object) -> None:
        self.latencies.save()
        self._places.close()

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Open the arms' directories. RunError where one holds other rows."""
        judge = rating(self.asked, self.pool)
        rows = self.asked.rows
        for candidate in candidates:
            identity = self._identity(candidate)
            path = self.directory / "arms" / _directory_name(candidate.name, identity)
            place = self._places.enter_context(RunDirectory(path, identity, rows))
            window = self._window(candidate, len(candidates))
            batch = BatchRun(place, rows, model=candidate.base, technique=candidate.name, window=window, judge=judge)
            batch.traced = True
            batch.untraced = place.journal.begun() - place.journal.done()
            self.arms.append(Arm(candidate, place, batch))

    def _window(self, candidate: Candidate, arms: int) -> int:
        """Rows under way at once. All arms wait for the same waves, so that they share those that may sleep."""
        return window_for(bases(candidate.model)) if self._asleep is None else max(1, self._asleep // arms)

    def _identity(self, candidate: Candidate) -> dict[str, Any]:
        told: dict[str, Any] = {"technique": candidate.spec, "model": identities(candidate.model)}
        return self.asked.identity | told | {"answer": self.asked.target, "scorer": self.asked.scorer.identity}

    def interrupt(self) -> None:
        """Begin no row and make no call from here on; calls under way finish and are kept."""
        self.interrupted = True
        self.limit.stop("the comparison was interrupted")
        for arm in self.arms:
            arm.batch.interrupt()

    async def run(self) -> None:
        """Run what is not done yet. An arm that cannot go on ends alone; BudgetExceeded where rows are left undone."""
        self.on_start()
        widest_first = sorted(self.arms, key=lambda arm: -arm.width)  # whose requests then carry the others' draws
        await gather(*(self._run(arm) for arm in widest_first))
        for arm in self.arms:
            arm.batch.write_output(arm.place.path / "output.jsonl")
        stopped = next((arm.batch.stopped for arm in self.arms if arm.batch.stopped is not None), None)
        if stopped is not None:
            raise BudgetExceeded(str(stopped))
        if self.interrupted and any(len(arm.place.journal.outcomes()) < arm.batch.rows.count for arm in self.arms):
            raise BudgetExceeded("the comparison was interrupted")
        failures = [arm.error for arm in self.arms if arm.error is not None]
        if len(failures) == len(self.arms):
            raise failures[0]

    async def _run(self, arm: Arm) -> None:
        model, request_of = arm.candidate.model, self.asked.request_of

        async def ask(row: Row) -> Completion:
            return await model(request_of(row))

        try:
            await arm.batch.execute(ask, self.limit)
        except ShoalError as error:
            arm.error = error


def rating(asked: Asked, pool: Pool) -> Judge:
    """The scorer as a judge of rows. What it asks of models is kept in the pool, and is no part of what an arm cost."""
    judge, keeper = asked.scorer.against(asked.target), Keeper(pool)

    async def rate(completion: Completion, row: Row) -> tuple[str | None, float | UnsetType]:
        with scope.setting(replay.current, keeper), scope.setting(trace.current, None):
            return await judge(completion, row)

    return rate


def _directory_name(name: str, identity: dict[str, Any]) -> str:
    """Readable, and another for whatever makes it another arm."""
    digest = blake2b(msgspec.json.encode(identity, order="sorted"), digest_size=4).hexdigest()
    return f"{re.sub(r'[^0-9A-Za-z_.=-]+', '_', name).strip('_.')[:60]}-{digest}"


async def checked_turn(work: Work) -> None:
    """A turn of the event loop between pieces of work that wait for nothing; BudgetExceeded once it is interrupted."""
    await asyncio.sleep(0)
    if work.interrupted:
        raise BudgetExceeded("the comparison was interrupted")
