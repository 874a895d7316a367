"""Rows that come at any time, from any thread, in any batches, through one window: how other engines' workers run us.

A batch is only a way to hand rows over: rows of all batches are under way together, and a slow one holds up nothing but
the end of its own batch.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Protocol

from msgspec import structs

from shoal.backends.loop import run as run_here
from shoal.backends.prices import paid
from shoal.batch.jobs import Job, identity_of
from shoal.batch.journal import RowRecorder
from shoal.batch.mapping import asking, judge_of, rater_of
from shoal.batch.programs import RowFunction
from shoal.batch.records import Record, decode, failed
from shoal.batch.rows import Row, row_id
from shoal.batch.runner import RowProgram, RowRunner, window_for
from shoal.batch.shelf import Shelf
from shoal.prompting.template import Template
from shoal.runtime import budget, registry, scope
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.runtime.scratch import scratch_directory
from shoal.runtime.types import Completion, Usage
from shoal.techniques.opening import bases, identities, names, open_model, refuse_unpriced


class Rows(Protocol):
    """What runs the rows of a job, on one event loop."""

    async def run(self, rows: list[Row]) -> list[Record]: ...

    async def stop(self) -> None:
        """End what is under way, and wait until it is gone."""


class RowStream:
    """A job under way, for rows of any number of batches. Open until it is closed.

    It has an event loop in a thread of its own, so that nothing that hands it rows can hold up the calls under way.
    The rows run there, or where `opening` says. Raises what keeps the job from running at all (UsageError, RunError,
    StoreError); what befalls a row is its record.
    """

    def __init__(self, job: Job, opening: "Callable[[Job, AsyncExitStack], Awaitable[Rows]] | None" = None) -> None:
        self.job = job
        self._opening = opening or _OpenJob.opened
        self._opened: Future[asyncio.AbstractEventLoop] = Future()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="shoal-rows", daemon=True)
        self._thread.start()
        self._loop = self._opened.result()

    def _work(self) -> None:
        try:
            run_here(self._main())
        except BaseException as error:  # raised again in the thread that opened it
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    async def _main(self) -> None:
        async with AsyncExitStack() as scopes:
            self._rows = await self._opening(self.job, scopes)
            scopes.push_async_callback(self._rows.stop)
            self._opened.set_result(asyncio.get_running_loop())
            await self._closing.wait()

    def submit(self, rows: Iterable[Row]) -> "Future[list[Record]]":
        """Hand rows over, from any thread; their records in the same order, once all are finished."""
        return asyncio.run_coroutine_threadsafe(self._rows.run(list(rows)), self._loop)

    def close(self) -> None:
        """End what is under way, and let model and journal go. What is finished is on disk."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()


class _ByContent(RowRunner):
    """Calls a row by its content: nobody knows its number."""

    async def _attempt(self, number: int, row: Row, program: RowProgram, recorder: RowRecorder) -> Record | None:
        record = await super()._attempt(number, row, program, recorder)
        return None if record is None else structs.replace(record, id=row_id(row))


class _OpenJob:
    """A job's model, journal and program, on the event loop they belong to."""

    def __init__(self, model: Model, program: RowProgram, runner: RowRunner, shelf: Shelf, limit: Budget) -> None:
        self.model = model
        self.program = program
        self.runner = runner
        self.shelf = shelf
        self.limit = limit
        self._room = asyncio.Semaphore(window_for(bases(model)))
        self._arrivals = count(1)
        self._under_way: dict[str, asyncio.Task[Record]] = {}

    @classmethod
    async def opened(cls, job: Job, scopes: AsyncExitStack) -> "_OpenJob":
        function, score = job.unpickled()
        model = open_model(
            job.model,
            cache=job.cache,
            config=Path(job.config) if job.config else None,
            max_in_flight=job.max_in_flight,
        )
        for base in bases(model):
            scopes.push_async_callback(base.aclose)
        if job.budget:
            refuse_unpriced(job.budget.budget(0, Usage(), 0.0), model)
        base_name, technique = names(model)
        identity = identity_of(job, identities(model), technique)
        rater = rater_of(score, job.target)
        if rater is not None:
            await rater.need()
            identity["score"] = rater.identity
        place = job.run_dir or scopes.enter_context(scratch_directory())
        shelf = Shelf(Path(place), identity, job.asked)
        scopes.callback(shelf.close)
        limit = Budget()
        if job.budget:  # a worker that comes in place of one that was killed spends what that one left
            others, ended = shelf.spent()
            limit = job.budget.budget(others, ended, paid(bases(model), ended) if ended.calls else 0.0)
        if job.name is None:
            program = asking(model, Template(job.template), job.params)
        else:
            program = _running(RowFunction(function, name=job.name))
        runner = _ByContent(
            shelf.journal,
            model=base_name,
            technique=job.name or technique,
            judge=rater.against(job.target) if rater else judge_of(score),
        )
        return cls(model, program, runner, shelf, limit)

    async def stop(self) -> None:
        """Cancel what is under way, and wait until it is gone."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, rows: list[Row]) -> list[Record]:
        self.shelf.look()
        with scope.setting(budget.current, self.limit), registry.using(self.model):
            tasks = [self._task(row) for row in rows]
        # A row that raises is no record but a fault that ends the job: a full disk, a damaged journal.
        return list(await asyncio.gather(*tasks))

    def _task(self, row: Row) -> asyncio.Task[Record]:
        """The one task of all equal rows that are under way: they are one question."""
        key = row_id(row)
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._one(key, row))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return task

    async def _one(self, key: str, row: Row) -> Record:
        number = int(key[:16], 16) >> 1  # a journal counts rows by 63 bits; who else has these is told by the content
        kept = self.shelf.journal.finished(number)
        if kept is not None and (record := decode(kept)).id == key:
            return record
        async with self._room:
            found = await self.runner.run(number, row, self.program, age=next(self._arrivals))
        if found is None:
            assert self.runner.stopped is not None
            found = failed(number, row, self.runner.stopped, model=self.runner.model, technique=self.runner.technique)
            found = structs.replace(found, id=key)
        return found


def _running(function: RowFunction) -> RowProgram:
    async def call(row: Row) -> Completion:
        function.check(row, "the row")  # rows of a stream need not all have the same columns
        return await function(row)

    return call
