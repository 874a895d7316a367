"""The waves of one model: the one that gathers, those that are out, and what comes of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from shoal.backends.openai import OpenAIBackend
from shoal.backends.openai_errors import without_keys
from shoal.backends.waves.api import Batch, BatchApi
from shoal.backends.waves.collecting import Collecting
from shoal.backends.waves.gathering import Gathering
from shoal.backends.waves.lines import Landed, Line, Reply, Turn, cancelled, drawn, endpoint_of, together
from shoal.backends.waves.patience import persist
from shoal.backends.waves.settings import WaveSettings
from shoal.backends.waves.state import OPEN, Wave, WaveStore
from shoal.backends.waves.submitting import Submitting
from shoal.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineError,
    MalformedResponse,
    ModelError,
    QuotaExceeded,
    ShoalError,
    UsageError,
)

_FIRST_CONTACT = 5  # attempts
_MOST_SAID = 500  # characters of a provider's reason


class Waves:
    """Lines go out in waves and land; a line that an earlier process sent is found again by its draws.

    `out` holds the waves under way as they stand, oldest first, by their numbers; `tell` is called when one has left
    and when it is back. `most_n` draws of a question one request can ask for.
    """

    def __init__(self, backend: OpenAIBackend, store: WaveStore, settings: WaveSettings) -> None:
        self.out: dict[int, Wave] = {}
        self.tell: Callable[[Wave], None] | None = None
        self.most_n = backend.capabilities.max_n
        self._backend = backend
        self._store = store
        self._settings = settings
        self._api = BatchApi(backend)
        self._submitting = Submitting(backend, store, settings, self._changed)
        self._collecting = Collecting(self._api, store, settings, self._changed, self._arrived)
        self.gathering = Gathering(self._depart, lambda: bool(self._tasks), settings)
        self._lines: dict[int, dict[int, Line]] = {}  # lines that somebody waits for, by wave and by their ids
        self._boarding: dict[bytes, tuple[Line, int]] = {}  # by draw, lines whose wave is being written down
        self._tasks: set[asyncio.Task[None]] = set()  # one for each wave on its way
        self._no_room: set[asyncio.Task[None]] = set()  # of those, whose wave the provider had no room for
        self._coming_in: set[asyncio.Task[None]] = set()  # whose wave has ended
        self._found: set[int] = set()  # waves that an earlier process sent
        self._begun: asyncio.Task[None] | None = None

    @property
    def sending(self) -> bool:
        """Whether a wave is on its way to the provider, or out."""
        return bool(self._tasks)

    # Beginning

    async def begin(self) -> None:
        """Find again what an earlier process sent. UsageError where the provider has no batch API."""
        if self._begun is None:
            self._begun = asyncio.create_task(self._begin())
        await asyncio.shield(self._begun)

    async def _begin(self) -> None:
        try:
            await persist(self._api.offered, self._settings.pace, lambda _: None, _FIRST_CONTACT)
        except QuotaExceeded:
            pass  # waves that were sent can be collected all the same
        except (BadRequest, MalformedResponse) as error:
            raise UsageError(f"{self._backend.name} has no batch API; leave --batch-api out ({error})") from None
        for wave in self._store.waves(*OPEN, "landed", "settled"):
            if wave.identity != self._backend.identity:
                continue
            if wave.state in ("landed", "settled"):
                await self._collecting.tidied(wave)
            elif wave.state in ("writing", "written"):
                await self._submitting.forget(wave, "the run ended before it was sent")
            else:
                self._found.add(wave.number)
                self._follow_again(wave)

    def _follow_again(self, wave: Wave) -> None:
        self.out[wave.number] = wave
        self._lines.setdefault(wave.number, {})
        self._start(self._found_again(wave))

    def _start(self, carrying: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(carrying)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._coming_in.discard(task)
        if task in self._no_room:
            self._no_room.discard(task)
        else:
            self.gathering.wave_ended()

    # Lines

    def left_with(self, key: bytes) -> tuple[Line, int] | None:
        """The line that a draw left with, where that is on its way or brought an answer."""
        if key in self._boarding:  # on disk there may be a part of its wave, or none
            return self._boarding[key]
        kept = self._store.find(key)
        if kept is None:
            return None
        line = self._lines.get(kept.wave, {}).get(kept.line)
        if line is None:
            line = Line([b""] * kept.draws, None, kept.line)
            if kept.reply is not None:
                line.land(kept.reply)
            elif not self._joined(kept.wave, line):
                return None
        return None if kept.reply is not None and not drawn(kept.reply) else (line, kept.place)

    def _joined(self, number: int, line: Line) -> bool:
        """Wait for a line of a wave that is out; where nobody follows the wave any more, somebody does again."""
        if number not in self._lines:
            wave = self._store.wave(number)
            if wave.state not in ("creating", "out"):
                return False
            self._follow_again(wave)
        self._lines[number][line.id] = line
        return True

    # Waves on their way

    def _depart(self, lines: list[Line]) -> None:
        # A part of what gathers is no tail: the rest waits for the wave that this part becomes.
        if not self.gathering and sum(len(line.keys) for line in lines) <= self._settings.tail_live:
            for line in lines:
                line.land(Turn.LIVE)
            return
        by_endpoint: dict[str, list[Line]] = {}
        for line in together(lines, self.most_n):
            assert line.draws is not None
            by_endpoint.setdefault(endpoint_of(line.draws.request), []).append(line)
        for part in by_endpoint.values():
            for line in part:
                self._boarding.update((key, (line, place)) for place, key in enumerate(line.keys))
            self._start(self._carried(part))

    def _boarded(self, lines: list[Line]) -> None:
        """The lines are on disk, or will not be; draws that found no room may be boarding again, in other lines."""
        for line in lines:
            for key in line.keys:
                if self._boarding.get(key, (None, 0))[0] is line:
                    del self._boarding[key]

    async def _carried(self, lines: list[Line]) -> None:
        number = 0

        def board(wave: Wave, aboard: list[Line]) -> None:
            nonlocal number
            number = wave.number
            self.out[number] = wave
            self._lines[number] = {line.id: line for line in aboard}
            self._boarded(lines)

        try:
            assert lines[0].draws is not None
            wave = await self._submitting.submit(endpoint_of(lines[0].draws.request), lines, board)
            if wave.state == "out":
                await self._brought(wave)
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting for a wave that nobody follows
            self._boarded(lines)
            self._lost(lines, error)
        finally:
            self._over(number)

    async def _found_again(self, wave: Wave) -> None:
        """Follow a wave that an earlier process sent, or began to send."""
        try:
            if wave.state == "creating":
                wave = await self._looked_for(wave)
            if wave.state == "out":
                await self._brought(wave)
            else:
                self._land_all(wave.number, Turn.AGAIN)
        except Exception as error:  # noqa: BLE001 - as above
            self._lost(list(self._lines.get(wave.number, {}).values()), error)
        finally:
            self._over(wave.number)

    async def _looked_for(self, wave: Wave) -> Wave:
        """A wave whose batch was being made when its process died: the provider may list it only after a while."""
        pace = self._settings.pace
        deadline = asyncio.get_running_loop().time() + pace.grace
        while True:
            made = await persist(lambda: self._submitting.adopted(wave), pace, lambda _: None)
            if made is not None:
                return await self._store.keep(wave, state="out", batch_id=made.id, status=made.status)
            if asyncio.get_running_loop().time() >= deadline:
                return await self._submitting.forget(wave, "the run ended before its batch was made")
            await asyncio.sleep(pace.poll)

    async def _brought(self, wave: Wave) -> None:
        """Follow a wave to its end; what brought no reply has its reason."""
        self._changed(wave)
        self._told(wave)
        wave, batch = await self._collecting.ended(wave)
        task = asyncio.current_task()
        assert task is not None
        self._coming_in.add(task)
        wave = await self._collecting.collect(wave, batch)
        self._told(wave)
        left = self._lines.get(wave.number, {})
        if batch.status == "failed":
            self._refused(wave, batch, left)
        elif batch.status == "cancelled":
            again = wave.number in self._found
            self._land_all(wave.number, Turn.AGAIN if again else cancelled(self._backend.server))
        elif batch.status == "expired":
            what = "not answered within the batch's completion window"
            self._land_all(wave.number, DeadlineExceeded(what, endpoint=self._backend.name))
        else:
            what = f"batch {batch.id} has no reply to the call"
            self._land_all(wave.number, MalformedResponse(what, endpoint=self._backend.name))

    def _refused(self, wave: Wave, batch: Batch, left: dict[int, Line]) -> None:
        """A batch that failed as a whole, which costs nothing: lines at fault fail, the others travel again."""
        faults = batch.faults
        if any("token_limit" in (fault.code or "") for fault in faults):
            self._no_room.update(self._tasks & {asyncio.current_task()})
            self.gathering.no_room(wave.requests, others=bool(self._tasks - self._no_room))
            self._land_all(wave.number, Turn.AGAIN)
            return
        ids = dict(enumerate(sorted(id_ for id_, _ in self._store.names(wave.number).values()), 1))
        named = [(ids[fault.line], fault) for fault in faults if fault.line is not None and fault.line in ids]
        for id_, fault in named:
            if id_ in left:
                left[id_].land(self._fault(batch, fault.message or fault.code))
        if not named:
            why = next((fault.message or fault.code for fault in faults), None)
            self._land_all(wave.number, self._fault(batch, why))
        self._land_all(wave.number, Turn.AGAIN)

    def _fault(self, batch: Batch, why: str | None) -> BadRequest:
        said = without_keys((why or "no reason given")[:_MOST_SAID], self._backend.server.key)
        return BadRequest(f"batch {batch.id} failed: {said}", endpoint=self._backend.name)

    def _arrived(self, wave: Wave, id_: int, reply: Reply) -> None:
        line = self._lines.get(wave.number, {}).get(id_)
        if line is not None:
            # Cancelled, and the run was begun again since: what was not done is wanted after all.
            again = wave.number in self._found and reply.code == "batch_cancelled"
            line.land(Turn.AGAIN if again else reply)

    def _land_all(self, number: int, outcome: Landed) -> None:
        """What becomes of the lines of a wave that have not landed."""
        for line in self._lines.get(number, {}).values():
            line.land(outcome)

    def _lost(self, lines: list[Line], error: Exception) -> None:
        if not isinstance(error, ShoalError):
            fault = EngineError(f"{type(error).__name__}: {error}", endpoint=self._backend.name)
            fault.__cause__ = error
            error = fault
        if isinstance(error, ModelError):
            error.retryable = False
        for line in lines:
            line.land(error)

    def _over(self, number: int) -> None:
        self._lines.pop(number, None)
        self.out.pop(number, None)

    def _changed(self, wave: Wave) -> None:
        if wave.number in self._lines:
            self.out[wave.number] = wave

    def _told(self, wave: Wave) -> None:
        if self.tell is not None:
            self.tell(wave)

    # Ending

    def refuse(self, error: ShoalError) -> None:
        """Raise `error` in all who wait. What is with the provider stays there, and is waited for another time."""
        for line in (*self.gathering.take(), *(line for line, _ in self._boarding.values())):
            line.land(error)
        for number in list(self._lines):
            self._land_all(number, error)

    async def come_in(self) -> None:
        """Wait for the waves that have ended: those whose answers are here, or on their way."""
        if self._coming_in:
            await asyncio.wait(self._coming_in)

    async def settle(self, is_kept: Callable[[bytes], bool]) -> None:
        """Forget waves all of whose answers are kept elsewhere, each by its draw's key."""
        for wave in self._store.waves("landed"):
            if wave.identity == self._backend.identity and all(map(is_kept, self._store.keys(wave.number))):
                await self._store.keep(wave, forget=True, state="settled")

    async def leave(self) -> None:
        """Follow the waves no longer; those that are out stay out."""
        tasks = {*self._tasks, *([self._begun] if self._begun else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._begun = None
