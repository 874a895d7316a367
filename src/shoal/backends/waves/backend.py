"""A backend whose answers come by a provider's batch API: calls gather into waves, and sleep until theirs is back.

It stands under a scheduler like any other, which joins equal draws and fuses those of one question. A draw that an
earlier process sent is waited for, or had from what came back, rather than asked again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from copy import copy
from typing import Any

from msgspec import structs

from shoal.backends.openai import OpenAIBackend
from shoal.backends.waves.api import Batch, BatchApi
from shoal.backends.waves.collecting import Collecting
from shoal.backends.waves.gathering import Gathering
from shoal.backends.waves.lines import Landed, Line, Reply, Turn, cancelled, drawn, endpoint_of, failure
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
from shoal.runtime.backend import Draws, Outcome, scores
from shoal.runtime.cache import draw_key, question_key
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Delta, Request

_FIRST_CONTACT = 5  # attempts
_UNLIMITED = 1 << 30


class WaveBackend:
    """The batch API of the server behind `backend`. What it cannot do, and tails, are asked of `live`.

    `waves` holds the waves under way as they stand, oldest first, by their numbers; `tell` is called when one has left
    and when it is back.
    """

    def __init__(self, backend: OpenAIBackend, live: Model, store: WaveStore, settings: WaveSettings) -> None:
        self.name, self.identity = backend.name, backend.identity
        can = backend.capabilities
        self.capabilities = structs.replace(can, max_batch=1, max_in_flight=_UNLIMITED, stream=False)
        self.waves: dict[int, Wave] = {}
        self.tell: Callable[[Wave], None] | None = None
        self._backend = backend
        self._live = live
        self._store = store
        self._settings = settings
        self._api = BatchApi(backend)
        self._submitting = Submitting(backend, store, settings, self._changed)
        self._collecting = Collecting(self._api, store, settings, self._changed, self._arrived)
        self._gathering = Gathering(self._depart, lambda: bool(self._tasks), settings)
        self._lines: dict[int, dict[int, Line]] = {}  # lines that somebody waits for, by wave and by their ids
        self._tasks: set[asyncio.Task[None]] = set()  # one for each wave on its way
        self._no_room: set[asyncio.Task[None]] = set()  # of those, whose wave the provider had no room for
        self._coming_in: set[asyncio.Task[None]] = set()  # whose wave has ended
        self._found: set[int] = set()  # waves that an earlier process sent
        self._most_n = can.max_n
        self._begun: asyncio.Task[None] | None = None

    @property
    def gathering(self) -> int:
        """Requests that will leave with the next wave."""
        return len(self._gathering)

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
            raise UsageError(f"{self.name} has no batch API; leave --batch-api out ({error})") from None
        for wave in self._store.waves(*OPEN):
            if wave.identity != self.identity:
                continue
            if wave.state in ("writing", "written"):
                await self._submitting.forget(wave, "the run ended before it was sent")
            else:
                self._found.add(wave.number)
                self._follow_again(wave)

    def _follow_again(self, wave: Wave) -> None:
        self.waves[wave.number] = wave
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
            self._gathering.wave_ended()

    # Asking

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        """Answer questions with the next wave, or by what an earlier one brought."""
        await self.begin()
        return [await self._outcome(draws) for draws in batch]

    async def _outcome(self, draws: Draws) -> Outcome:
        if scores(draws.request) and self.capabilities.forced_logprobs:
            return await self._asked_live(draws)
        question, _ = question_key(self.identity, draws.request)
        samples = draws.samples or (draws.request.sample,)
        keys = [draw_key(question, sample) for sample in samples]
        got: dict[int, Completion] = {}
        afresh: set[int] = set()  # places whose draws are in some wave, which brought them no answer
        tries = 0
        while missing := [place for place in range(draws.n) if place not in got]:
            failed: ModelError | None = None
            for line, places in self._aboard(draws.request, samples, keys, missing, afresh):
                error = await self._taken(draws.request, samples, line, places, got)
                afresh.update(place for place in places if place not in got)
                failed = error or failed
            if failed is not None:
                tries += 1
                if not failed.retryable or tries >= min(self._settings.tries, failed.max_attempts):
                    failed.retryable = False  # it had its tries
                    return failed
        return [got[place] for place in range(draws.n)]

    async def _taken(
        self,
        request: Request,
        samples: Sequence[tuple[int, ...]],
        line: Line,
        places: dict[int, int],
        got: dict[int, Completion],
    ) -> ModelError | None:
        """Wait for a line and take the draws that stand in these places of it; its error, if it has one."""
        landed = await self._landing(line)
        if landed is Turn.AGAIN:
            return None
        if landed is Turn.LIVE:
            wanted = list(places)
            outcome = await self._asked_live(_draws(request, [samples[place] for place in wanted]))
            places = {place: i for i, place in enumerate(wanted)}
        elif isinstance(landed, Reply):
            if not drawn(landed):
                return failure(landed, self._backend.server)
            outcome = self._backend.read_reply(Draws(request, len(line.keys)), landed.status, bytes(landed.body))
        elif isinstance(landed, ModelError):
            return copy(landed)
        else:
            assert isinstance(landed, ShoalError)
            raise copy(landed)
        if isinstance(outcome, ModelError):
            return outcome
        if len(outcome) < len(line.keys) and landed is not Turn.LIVE:
            self._most_n = min(self._most_n, len(outcome))  # fewer draws a request than asked: believed from now on
        got.update({place: outcome[i] for place, i in places.items() if i < len(outcome)})
        return None

    async def _landing(self, line: Line) -> Landed:
        line.waiting += 1
        try:
            return await asyncio.shield(line.landed)
        finally:
            line.waiting -= 1
            if not line.waiting and not line.landed.done():
                self._gathering.leave(line)

    async def _asked_live(self, draws: Draws) -> Outcome:
        samples = draws.samples or (draws.request.sample,)
        try:
            return await gather(*(self._live(structs.replace(draws.request, sample=sample)) for sample in samples))
        except ModelError as error:
            error.retryable = False  # the live scheduler has tried again already
            return error

    # Which line a draw travels in

    def _aboard(
        self,
        request: Request,
        samples: Sequence[tuple[int, ...]],
        keys: list[bytes],
        missing: list[int],
        afresh: set[int],
    ) -> list[tuple[Line, dict[int, int]]]:
        """The lines that bring the missing draws, with the places in them: lines that left already, and new ones."""
        known: dict[int, tuple[Line, dict[int, int]]] = {}
        new: list[int] = []
        for place in missing:
            found = None if place in afresh else self._left_with(keys[place])
            if found is None:
                new.append(place)
            else:
                line, at = found
                known.setdefault(line.id, (line, {}))[1][place] = at
        lines = list(known.values())
        for start in range(0, len(new), self._most_n):
            part = new[start : start + self._most_n]
            line = Line([keys[place] for place in part], _draws(request, [samples[place] for place in part]))
            lines.append((line, {place: i for i, place in enumerate(part)}))
            self._gathering.add(line)
        return lines

    def _left_with(self, key: bytes) -> tuple[Line, int] | None:
        """The line that a draw left with, where that is on its way or brought an answer."""
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
        if sum(len(line.keys) for line in lines) <= self._settings.tail_live:
            for line in lines:
                line.land(Turn.LIVE)
            return
        by_endpoint: dict[str, list[Line]] = {}
        for line in lines:
            assert line.draws is not None
            by_endpoint.setdefault(endpoint_of(line.draws.request), []).append(line)
        for part in by_endpoint.values():
            self._start(self._carried(part))

    async def _carried(self, lines: list[Line]) -> None:
        number = 0

        def board(wave: Wave, aboard: list[Line]) -> None:
            nonlocal number
            number = wave.number
            self.waves[number] = wave
            self._lines[number] = {line.id: line for line in aboard}

        try:
            assert lines[0].draws is not None
            wave = await self._submitting.submit(endpoint_of(lines[0].draws.request), lines, board)
            if wave.state == "out":
                await self._brought(wave)
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting for a wave that nobody follows
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
            self._land_all(wave.number, DeadlineExceeded(what, endpoint=self.name))
        else:
            what = f"batch {batch.id} has no reply to the call"
            self._land_all(wave.number, MalformedResponse(what, endpoint=self.name))

    def _refused(self, wave: Wave, batch: Batch, left: dict[int, Line]) -> None:
        """A batch that failed as a whole, which costs nothing: lines at fault fail, the others travel again."""
        faults = batch.faults
        if any("token_limit" in (fault.code or "") for fault in faults):
            self._no_room.update(self._tasks & {asyncio.current_task()})
            self._gathering.no_room(wave.requests, others=len(self._tasks) > 1)
            self._land_all(wave.number, Turn.AGAIN)
            return
        ids = dict(enumerate(sorted(id_ for id_, _ in self._store.names(wave.number).values()), 1))
        for fault in faults:
            line = left.get(ids.get(fault.line or 0, 0))
            if line is not None:
                line.land(self._fault(batch, fault.message or fault.code))
        if not any(fault.line for fault in faults):
            why = next((fault.message or fault.code for fault in faults), None)
            self._land_all(wave.number, self._fault(batch, why))
        self._land_all(wave.number, Turn.AGAIN)

    def _fault(self, batch: Batch, why: str | None) -> BadRequest:
        return BadRequest(f"batch {batch.id} failed: {why or 'no reason given'}", endpoint=self.name)

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
            fault = EngineError(f"{type(error).__name__}: {error}", endpoint=self.name)
            fault.__cause__ = error
            error = fault
        if isinstance(error, ModelError):
            error.retryable = False
        for line in lines:
            line.land(error)

    def _over(self, number: int) -> None:
        self._lines.pop(number, None)
        self.waves.pop(number, None)

    def _changed(self, wave: Wave) -> None:
        if wave.number in self._lines:
            self.waves[wave.number] = wave

    def _told(self, wave: Wave) -> None:
        if self.tell is not None:
            self.tell(wave)

    # Ending

    def refuse(self, error: ShoalError) -> None:
        """Raise `error` in all who wait. What is with the provider stays there, and is waited for another time."""
        for line in self._gathering.take():
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
            if wave.identity == self.identity and all(map(is_kept, self._store.keys(wave.number))):
                await self._store.keep(wave, forget=True, state="settled")

    async def leave(self) -> None:
        """Follow the waves no longer; those that are out stay out."""
        tasks = {*self._tasks, *([self._begun] if self._begun else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._begun = None

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        """Never asked for: `capabilities.stream` is False."""
        (outcome,) = await self.generate([Draws(request)])
        if isinstance(outcome, ModelError):
            raise outcome
        yield outcome[0]

    async def aclose(self) -> None:
        await self.leave()


def _draws(request: Request, samples: list[tuple[int, ...]]) -> Draws:
    return Draws(structs.replace(request, sample=samples[0]), len(samples), tuple(samples))
