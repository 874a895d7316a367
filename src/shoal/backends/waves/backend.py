"""A backend whose answers come by a provider's batch API: calls gather into waves, and sleep until theirs is back.

It stands under a scheduler like any other, which joins equal draws and fuses those of one question. A draw that an
earlier process sent is waited for, or had from what came back, rather than asked again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from copy import copy

from msgspec import structs

from shoal.backends.openai import OpenAIBackend
from shoal.backends.waves.lines import Joined, Landed, Line, Reply, Turn, at_batch_price, drawn, draws_of, failure
from shoal.backends.waves.settings import WaveSettings
from shoal.backends.waves.state import WaveStore
from shoal.backends.waves.under_way import Waves
from shoal.errors import ModelError, ShoalError
from shoal.runtime.backend import Draws, Outcome, scores
from shoal.runtime.cache import draw_key, question_key
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Delta, Request

_UNLIMITED = 1 << 30


class WaveBackend:
    """The batch API of the server behind `backend`. What it cannot do, and tails, are asked of `live`."""

    def __init__(self, backend: OpenAIBackend, live: Model, store: WaveStore, settings: WaveSettings) -> None:
        self.name, self.identity = backend.name, backend.identity
        can = backend.capabilities
        self.capabilities = structs.replace(can, max_batch=1, max_in_flight=_UNLIMITED, stream=False)
        self.waves = Waves(backend, store, settings)
        self._backend = backend
        self._live = live
        self._settings = settings

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        """Answer questions with the next wave, or by what an earlier one brought."""
        await self.waves.begin()
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
        while isinstance(landed, Joined):
            line, places = landed.line, {place: landed.start + at for place, at in places.items()}
            landed = await self._landing(line)
        if landed is Turn.AGAIN:
            return None
        if landed is Turn.LIVE:
            wanted = list(places)
            outcome = await self._asked_live(draws_of(request, [samples[place] for place in wanted]))
            places = {place: i for i, place in enumerate(wanted)}
        elif isinstance(landed, Reply):
            if not drawn(landed):
                return failure(landed, self._backend.server)
            reply = self._backend.read_reply(Draws(request, len(line.keys)), landed.status, bytes(landed.body))
            outcome = at_batch_price(reply)
        elif isinstance(landed, ModelError):
            return copy(landed)
        else:
            assert isinstance(landed, ShoalError)
            raise copy(landed)
        if isinstance(outcome, ModelError):
            return outcome
        if len(outcome) < len(line.keys) and landed is not Turn.LIVE:
            # Fewer draws a request than asked for: believed from now on.
            self.waves.most_n = min(self.waves.most_n, len(outcome))
        got.update({place: outcome[i] for place, i in places.items() if i < len(outcome)})
        return None

    async def _landing(self, line: Line) -> Landed:
        line.waiting += 1
        try:
            return await asyncio.shield(line.landed)
        finally:
            line.waiting -= 1
            if not line.waiting and not line.landed.done():
                self.waves.gathering.leave(line)

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
            found = None if place in afresh else self.waves.left_with(keys[place])
            if found is None:
                new.append(place)
            else:
                line, at = found
                known.setdefault(line.id, (line, {}))[1][place] = at
        lines = list(known.values())
        for start in range(0, len(new), self.waves.most_n):
            part = new[start : start + self.waves.most_n]
            line = Line([keys[place] for place in part], draws_of(request, [samples[place] for place in part]))
            lines.append((line, {place: i for i, place in enumerate(part)}))
            self.waves.gathering.add(line)
        return lines

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        """Never asked for: `capabilities.stream` is False."""
        (outcome,) = await self.generate([Draws(request)])
        if isinstance(outcome, ModelError):
            raise outcome
        yield outcome[0]

    async def aclose(self) -> None:
        await self.waves.leave()
