"""Waiting for a wave: how it stands is asked now and then, and what came back is on disk before anybody sees it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from msgspec import structs

from shoal.backends.openai_errors import without_keys
from shoal.backends.transport import Incoming
from shoal.backends.waves.api import ENDED, Batch, BatchApi
from shoal.backends.waves.lines import Reply, drawn, read_line
from shoal.backends.waves.patience import persist
from shoal.backends.waves.settings import WaveSettings
from shoal.backends.waves.state import Wave, WaveStore
from shoal.errors import BadRequest, MalformedResponse, ModelError

T = TypeVar("T")
_CHUNK = 1000  # replies in one transaction
_LONGEST_LINE = 64 << 20
_DELETIONS = 3  # attempts
_READINGS = 3  # of files that hold less than they should


class Collecting:
    """Follows waves to their end. `landed` is told of each request that came back, by wave, id and reply."""

    def __init__(
        self,
        api: BatchApi,
        store: WaveStore,
        settings: WaveSettings,
        changed: Callable[[Wave], None],
        landed: Callable[[Wave, int, Reply], None],
    ) -> None:
        self._api = api
        self._store = store
        self._pace = settings.pace
        self._changed = changed
        self._landed = landed

    async def collect(self, wave: Wave, batch: Batch) -> Wave:
        """Returns when all that came back with a wave that has ended is on disk, and nothing of it at the provider.

        Files with lines that cannot be read stay there. MalformedResponse where calls are done and no reply can be
        had: one may be lost and is asked again, but nobody is to pay for a whole wave again unasked.
        """
        whole, here = await self._read(wave, batch)
        for _ in range(_READINGS - 1):
            if whole and here >= min(batch.counts.completed + batch.counts.failed, wave.requests):
                break
            await asyncio.sleep(self._pace.pause)
            batch = await self._standing(wave, batch.id)  # it may name its files late
            whole, here = await self._read(wave, batch)
        if batch.counts.completed > 1 and not here:
            raise MalformedResponse(
                f"batch {batch.id} is {batch.status} and no reply can be read; the same command reads it again, "
                f"`shoal waves {self._store.directory} --forget` has its calls made anew"
            )
        came = {"ended_at": time.time(), "untidy": whole, **_files_of(batch)}
        return await self.tidied(await self._store.keep(wave, state="landed", note="", **came))

    async def _read(self, wave: Wave, batch: Batch) -> tuple[bool, int]:
        """Take what the batch's files hold: whether all their lines could be read, and how many replies are here."""
        whole = True
        for file_id in _files_of(batch).values():
            if file_id is not None:
                whole &= await self._collected(wave, file_id)
        return whole, sum(here for _, here in self._store.names(wave.number).values())

    async def ended(self, wave: Wave) -> tuple[Wave, Batch]:
        """Ask how the wave stands until it has ended."""
        assert wave.batch_id is not None
        pause = self._pace.poll
        while True:
            batch = await self._standing(wave, wave.batch_id)
            stands: dict[str, Any] = {
                "status": batch.status,
                "done": batch.counts.completed,
                "failed": batch.counts.failed,
                "expires_at": batch.expires_at,
                **_files_of(batch),
            }
            if any(getattr(wave, name) != value for name, value in stands.items()):
                wave = await self._store.keep(wave, **stands)
                self._changed(wave)
            if batch.status in ENDED:
                return wave, batch
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, self._pace.longest)

    async def _standing(self, wave: Wave, id_: str) -> Batch:
        return await self._had(wave, id_, partial(self._api.batch, id_))

    async def _had(self, wave: Wave, id_: str, call: Callable[[], Awaitable[T]]) -> T:
        """What the provider keeps under an id of the wave's; BadRequest where it keeps it no longer."""
        try:
            return await persist(call, self._pace, partial(self._note, wave))
        except BadRequest as error:
            advice = (
                f"if {id_} is gone for good, `shoal waves {self._store.directory} --forget` has its calls made anew"
            )
            raise BadRequest(f"{error}; {advice}", status=error.status) from None

    async def _collected(self, wave: Wave, file_id: str) -> bool:
        """Take a file's replies; whether all its lines could be read. A download that breaks off begins again."""
        unread = 0

        async def download() -> None:
            nonlocal unread
            unread = 0
            names = self._store.names(wave.number)
            found: list[tuple[int, Reply]] = []
            async with self._api.content(file_id) as incoming:
                async for line in _lines(incoming):
                    read = self._read_line(line)
                    if read is None:
                        unread += 1
                        continue
                    id_, here = names.get(read[0], (0, True))
                    if not here:  # of two lines about one request the first counts
                        names[read[0]] = (id_, True)
                        found.append((id_, read[1]))
                    if len(found) == _CHUNK:
                        await self._keep(wave, found)
                        found = []
            await self._keep(wave, found)

        await self._had(wave, file_id, download)
        return not unread

    def _read_line(self, line: bytes) -> tuple[str, Reply] | None:
        read = read_line(line)
        if read is None or drawn(read[1]):
            return read
        return read_line(without_keys(line.decode(), self._api.server.key).encode())  # it may repeat what it was sent

    async def _keep(self, wave: Wave, found: list[tuple[int, Reply]]) -> None:
        await self._store.keep_replies(found)
        for id_, reply in found:
            self._landed(wave, id_, reply)

    async def tidied(self, wave: Wave) -> Wave:
        """Delete the files of a wave that has landed: what is here need not lie with the provider as well."""
        if not wave.untidy:
            return wave
        deleted = [await self._deleted(id_) for id_ in (wave.file_id, wave.output_file_id, wave.error_file_id) if id_]
        return await self._store.keep(wave, untidy=False) if all(deleted) else wave

    async def _deleted(self, file_id: str) -> bool:
        try:
            await persist(partial(self._api.delete, file_id), self._pace, lambda _: None, _DELETIONS)
        except ModelError as error:
            return error.status == 404
        return True

    def _note(self, wave: Wave, said: str) -> None:
        self._changed(structs.replace(wave, note=said))


def _files_of(batch: Batch) -> dict[str, Any]:
    return {"output_file_id": batch.output_file_id, "error_file_id": batch.error_file_id}


async def _lines(incoming: Incoming) -> AsyncIterator[bytes]:
    """The lines of a body that are not blank, each bounded."""
    waiting = bytearray()
    async for chunk in incoming.chunks():
        waiting += chunk
        if b"\n" in chunk:
            *whole, rest = waiting.split(b"\n")
            waiting = rest
            for line in whole:
                if line.strip():
                    yield bytes(line)
        if len(waiting) > _LONGEST_LINE:
            raise MalformedResponse(f"a line of more than {_LONGEST_LINE} bytes")
    if waiting.strip():
        yield bytes(waiting)
