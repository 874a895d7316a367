"""All batches of a server: those under way go on by themselves, also after a restart."""

import asyncio
import logging
import time
from pathlib import Path

from shoal.batch.runner import window_for
from shoal.errors import StoreError, StoreLocked
from shoal.server.access.callers import Caller
from shoal.server.access.keys import Keys
from shoal.server.batches.answering import Slots
from shoal.server.batches.objects import Batch, new_id, window_seconds
from shoal.server.batches.state import State
from shoal.server.batches.work import Work
from shoal.server.records import log_fault
from shoal.server.refusals import Refusal
from shoal.server.service import Service

log = logging.getLogger("shoal.server")
_OWN = "; give this server its own, state in [server]"
_MOST_OPEN = 100  # batches of one key that have not ended
_AGAIN = 30.0  # seconds until a batch that the disk stopped is taken up again


class Batches:
    """The batches of one server, and the directory they are kept in.

    A batch whose key the configuration no longer has stays as it is until a start finds the key again.
    """

    def __init__(self, service: Service, keys: Keys) -> None:
        self.settings = service.settings
        directory = service.settings.state
        self._path = Path(directory).expanduser() if directory else None
        self._service = service
        self._keys = keys
        self._state: State | None = None
        self._slots = Slots(window_for(service.names.all_bases()))
        self._slots_of: dict[str, Slots] = {}  # by keys that may have so many requests at once
        self._works: dict[str, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take up what an earlier process left. Where that cannot be, the log says why and all else is served."""
        if self._path is not None and (self._path / "state.sqlite").exists():
            try:
                self._opened(self._path)
            except StoreError as error:
                log.error(
                    "files and batches are not served: %s%s", error, _OWN if isinstance(error, StoreLocked) else ""
                )

    async def stop(self) -> None:
        """Stop what is under way; the next start goes on with it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._state is not None:
            self._state.close()
            self._state = None

    @property
    def state(self) -> State:
        """The directory, opened when it is first needed. Refusal, with 503, where it cannot be."""
        if self._state is not None:
            return self._state
        if self._path is None:
            message = "this server keeps no files; its operator can say where, with state in [server]"
            raise Refusal(503, message, kind="server_error", code="no_state")
        return self._opened(self._path)

    def _opened(self, path: Path) -> State:
        self._state = state = State(path)
        for owner, batch in state.open_batches():
            caller = self._keys.named(owner)
            if caller is None:
                log.warning("%s waits: there is no key named %s", batch.id, owner)
            else:
                self._take_up(batch, caller, state)
        return state

    def _take_up(self, batch: Batch, caller: Caller, state: State) -> Work:
        slots = self._slots_for(caller)
        self._works[batch.id] = work = Work(batch, caller, state, self._service, slots)
        task = asyncio.ensure_future(self._carry_out(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return work

    def _slots_for(self, caller: Caller) -> Slots:
        """Turns for the lines of a key's batches, which leave one request of the key's for live use."""
        most = caller.settings.max_in_flight if caller.settings is not None else None
        if most is None:
            return self._slots
        return self._slots_of.setdefault(caller.id, Slots(max(1, most - 1), self._slots))

    async def _carry_out(self, work: Work) -> None:
        while True:
            try:
                await work.carry_out()
                break
            except StoreError as error:
                log.error("%s waits %.0f s: %s; nothing finished is lost", work.batch.id, _AGAIN, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, other batches go on
                log_fault(f"{work.batch.id} stops until the next start", error)
                break
            await asyncio.sleep(_AGAIN)
        del self._works[work.batch.id]

    async def create(
        self, caller: Caller, endpoint: str, input_file_id: str, window: str, metadata: dict[str, str] | None
    ) -> Batch:
        """A new batch, on disk and begun."""
        state = self.state
        if sum(owner == caller.id for owner, _ in state.open_batches()) >= _MOST_OPEN:
            raise Refusal(429, f"{_MOST_OPEN} batches have not ended yet; wait for one", code="too_many_batches")
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=window,
            created_at=now,
            expires_at=now + window_seconds(window),
            metadata=metadata,
        )
        # A client that goes away now must not leave a batch that nobody works on.
        return await asyncio.shield(asyncio.ensure_future(self._begin(batch, caller, state)))

    async def _begin(self, batch: Batch, caller: Caller, state: State) -> Batch:
        await state.keep_batch(caller.id, batch)
        return self._take_up(batch, caller, state).batch

    def find(self, caller: Caller, id_: str) -> Batch:
        """How one of the caller's batches stands; Refusal where there is none."""
        batch = self.state.batch(caller.id, id_)
        if batch is None:
            raise Refusal(404, f"No such batch: {id_[:100]!r}", param="id", code="not_found")
        return self.now(batch)

    def now(self, batch: Batch) -> Batch:
        """How a batch stands now: its lines are counted in memory while they are under way."""
        work = self._works.get(batch.id)
        return work.batch if work is not None else batch

    async def cancel(self, caller: Caller, id_: str) -> Batch:
        """Stop a batch; Refusal where it is too late."""
        batch = self.find(caller, id_)
        work = self._works.get(id_)
        if batch.status not in ("validating", "in_progress", "cancelling", "cancelled") or (
            work is None and batch.status != "cancelled"
        ):
            raise Refusal(400, f"a batch that is {batch.status} cannot be cancelled", code="batch_not_cancellable")
        if work is not None:
            await work.cancel()
        return self.now(batch)
