"""One batch from its input file to its output file. Kill it at any moment: what was finished is not done again."""

import asyncio
import logging
import time
from functools import partial
from typing import Any

from msgspec import structs

from shoal.batch.journal import Journal
from shoal.errors import CorruptStore, StoreError
from shoal.server.access.callers import Caller
from shoal.server.batches.answering import ENDPOINTS, Answering, Slots
from shoal.server.batches.lines import Checking, Line, decoded, read_lines
from shoal.server.batches.objects import (
    ENDED,
    Batch,
    Counts,
    Fault,
    Faults,
    File,
    answered_line,
    derived_id,
)
from shoal.server.batches.results import Ending, Results, write_results
from shoal.server.batches.state import State
from shoal.server.batches.window import Window
from shoal.server.service import Service

log = logging.getLogger("shoal.server")
_MOST_BYTES = 32 << 20  # of requests under way


class Work:
    """A batch under way. `batch` is how it stands; what `carry_out` keeps on disk is always before that."""

    def __init__(self, batch: Batch, caller: Caller, state: State, service: Service, slots: Slots) -> None:
        self.batch = batch
        self._caller = caller
        self._state = state
        self._service = service
        self._slots = slots
        self._under_way: asyncio.Task[Any] | None = None

    async def carry_out(self) -> None:
        """To its end. Raises StoreError where the disk does not take it; call it again then, it goes on."""
        try:
            if not self._state.content(self.batch.input_file_id).exists():
                await self.fail("input_file_missing", "the input file is not there any more")
            if self.batch.in_progress_at is None and self.batch.status in ("validating", "cancelling"):
                await self._check()
            if self.batch.status in ENDED:
                return
            journal = Journal(self._state.journal(self.batch.id))
            try:
                await self._finish(journal, await self._answer_all(journal))
            finally:
                journal.close()
            self._state.drop_journal(self.batch.id)
        except CorruptStore as error:
            log.error("%s failed: %s", self.batch.id, error)
            await self.fail("journal_damaged", "what was kept of the batch is damaged; the server's log says where")
        except OSError as error:
            raise StoreError(f"{error.filename or self._state.path}: {error.strerror}") from error

    async def cancel(self) -> None:
        """Stop what is under way, up to the wire; what is finished is kept."""
        if self.batch.status in ("validating", "in_progress"):
            self._become("cancelling", cancelling_at=_now())
            if self._under_way is not None:
                self._under_way.cancel()
            await self._kept()

    def _become(self, status: str, **fields: Any) -> None:
        if self.batch.status != status:
            log.info("%s %s %s", self.batch.id, status, self._caller.id)
        self.batch = structs.replace(self.batch, status=status, **fields)

    async def _kept(self, *files: File) -> None:
        await self._state.keep_batch(self._caller.id, self.batch, files)

    async def _check(self) -> None:
        """Read the input file through, before anything is spent."""
        endpoint = ENDPOINTS[self.batch.endpoint]
        checking = Checking(self.batch.endpoint, lambda body: endpoint.read(body, self._caller, self._service))
        checked = await checking.file(self._state.content(self.batch.input_file_id), self._service.settings.max_body)
        counts = Counts(checked.total)
        if checked.faults:
            self._become("failed", failed_at=_now(), errors=Faults(checked.faults))
        elif self.batch.status == "cancelling":  # in the meantime
            self._become("cancelling", request_counts=counts, model=checked.model)
        else:
            self._become("in_progress", in_progress_at=_now(), request_counts=counts, model=checked.model)
        await self._kept()

    async def _answer_all(self, journal: Journal) -> Ending:
        """Answer what is not answered yet; how that ended."""
        self._count(journal)
        left = self.batch.expires_at - time.time()
        if self.batch.status == "in_progress" and left > 0:
            self._under_way = asyncio.ensure_future(self._lines(journal))
            try:
                await asyncio.wait([self._under_way], timeout=left)
            finally:
                ended = not self._under_way.cancel()
                await asyncio.wait([self._under_way])
            if ended and self.batch.status == "in_progress":
                self._under_way.result()
            await journal.settled()
            self._count(journal)
        if self.batch.status == "cancelling":
            return "cancelled"
        counts = self.batch.request_counts
        return "completed" if counts.completed + counts.failed == counts.total else "expired"

    def _count(self, journal: Journal) -> None:
        outcomes = journal.outcomes()
        failed = sum(outcomes.values())
        counts = Counts(self.batch.request_counts.total, len(outcomes) - failed, failed)
        self.batch = structs.replace(self.batch, request_counts=counts)

    async def _lines(self, journal: Journal) -> None:
        done = journal.outcomes()
        answering = Answering(
            self.batch.id, ENDPOINTS[self.batch.endpoint], self._service, self._caller, journal, self._slots
        )
        window = Window(self._slots.most, _MOST_BYTES)
        try:
            async with asyncio.TaskGroup() as group:
                source = self._state.content(self.batch.input_file_id)
                for number, data in read_lines(source, self._service.settings.max_body):
                    if number in done or data is None:
                        continue
                    size = len(data)
                    await window.enter(size)
                    task = group.create_task(self._line(journal, answering, number, decoded(data)))
                    task.add_done_callback(partial(window.leave, size))
        except* StoreError as errors:
            raise StoreError(str(errors.exceptions[0])) from None

    async def _line(self, journal: Journal, answering: Answering, number: int, line: Line) -> None:
        status, body = await answering.line(number, line)
        failed = status != 200
        value = answered_line(self.batch.id, number, line.custom_id, status, body)
        await journal.keep(number, value, failed=failed)
        counts = self.batch.request_counts
        counts = Counts(counts.total, counts.completed + (not failed), counts.failed + failed)
        self.batch = structs.replace(self.batch, request_counts=counts)

    async def _finish(self, journal: Journal, ending: Ending) -> None:
        """Write the files, then list them and end the batch in one moment."""
        if self.batch.status == "in_progress":
            self._become("finalizing", finalizing_at=_now())
            await self._kept()
        batch, state = self.batch, self._state
        ids = derived_id("file-", batch.id, "output"), derived_id("file-", batch.id, "errors")
        source, longest = state.content(batch.input_file_id), self._service.settings.max_body
        paths = state.content(ids[0]), state.content(ids[1])
        writing = asyncio.ensure_future(
            asyncio.to_thread(write_results, batch.id, ending, journal, source, longest, paths)
        )
        try:
            results = await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])  # a server that stops must not close the journal under the thread
        files = _files(batch.id, ids, results)
        listed = {file.id for file in files}
        counts = structs.replace(results.counts, total=max(results.counts.total, batch.request_counts.total))
        fields = {
            "output_file_id": ids[0] if ids[0] in listed else None,
            "error_file_id": ids[1] if ids[1] in listed else None,
            "request_counts": counts,
            "usage": results.usage,
            f"{ending}_at": _now(),
        }
        ended = structs.replace(batch, status=ending, **fields)
        await state.keep_batch(self._caller.id, ended, files)
        self._become(ending, **fields)

    async def fail(self, code: str, message: str) -> None:
        """End it without results."""
        self._become("failed", failed_at=_now(), errors=Faults([Fault(code, message)]))
        await self._kept()


def _files(batch: str, ids: tuple[str, str], results: Results) -> list[File]:
    now = _now()
    sizes = (results.output_bytes, results.error_bytes)
    return [
        File(id=id_, bytes=size, created_at=now, filename=f"{batch}_{what}.jsonl", purpose="batch_output")
        for id_, size, what in zip(ids, sizes, ("output", "error"), strict=True)
        if size
    ]


def _now() -> int:
    return int(time.time())
