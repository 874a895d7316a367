"""Sending a wave: its file is written and uploaded and its batch made, each step on disk before the next begins."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex

from msgspec import Struct, structs

from shoal.backends.openai import OpenAIBackend
from shoal.backends.waves.api import Batch, BatchApi, StorageFull
from shoal.backends.waves.lines import Endpoint, Line, Turn, custom_id, request_line
from shoal.backends.waves.patience import persist
from shoal.backends.waves.settings import WaveSettings
from shoal.backends.waves.state import Wave, WaveStore
from shoal.errors import BadRequest, ModelError, ServerError, StoreError


class _File(Struct):
    """What came of writing a wave's file: who is in it, who found no room, who cannot be asked at all."""

    aboard: list[Line]
    left: list[Line]
    refused: list[tuple[Line, BadRequest]]
    digest: str = ""
    size: int = 0


class _NotTaken(Exception):
    """The provider refused a wave, and nothing of it can have been begun."""

    def __init__(self, error: ModelError) -> None:
        super().__init__(str(error))
        self.error = error


class Submitting:
    """Brings waves to a provider. `say` is told what is being waited for; `changed` of a wave's every step."""

    def __init__(
        self, backend: OpenAIBackend, store: WaveStore, settings: WaveSettings, changed: Callable[[Wave], None]
    ) -> None:
        self._backend = backend
        self._api = BatchApi(backend)
        self._store = store
        self._settings = settings
        self._changed = changed
        self._most_bytes = settings.most_bytes

    async def submit(self, endpoint: Endpoint, lines: list[Line], board: Callable[[Wave, list[Line]], None]) -> Wave:
        """Send the lines as one wave; the wave, which is out, or dropped where it was refused as a whole.

        Lines that found no room, or that have to travel in a smaller wave, land as AGAIN; `board` is told who travels.
        Raises a ModelError where the batch may have been made all the same: the wave stays, and is looked for.
        """
        new = self._store.new(token_hex(12), self._backend.identity, self._backend.name, endpoint)
        path = self._store.directory / new.file_name
        try:
            file = await asyncio.to_thread(self._write, path, endpoint, lines)
            for line, error in file.refused:
                line.land(error)
            for line in file.left:
                line.land(Turn.AGAIN)
            wave = await self._store.begin(structs.replace(new, digest=file.digest), file.aboard)
            board(wave, file.aboard)
            try:
                return await self._sent(wave, path)
            except _NotTaken as refusal:
                return await self._refused(wave, file, refusal.error)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
        finally:
            path.unlink(missing_ok=True)

    def _write(self, path: Path, endpoint: Endpoint, lines: Sequence[Line]) -> _File:
        file = _File([], [], [])
        digest = blake2b(digest_size=16)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            for number, line in enumerate(lines):
                assert line.draws is not None
                try:
                    data = request_line(custom_id(line.keys), endpoint, self._backend.wire_body(line.draws))
                except BadRequest as error:
                    file.refused.append((line, error))
                    continue
                if file.aboard and file.size + len(data) > self._most_bytes:
                    file.left += lines[number:]
                    break
                out.write(data)
                digest.update(data)
                file.size += len(data)
                file.aboard.append(line)
        file.digest = digest.hexdigest()
        return file

    async def _sent(self, wave: Wave, path: Path) -> Wave:
        if not wave.requests:
            return await self._store.keep(wave, state="dropped", note="nothing that could be asked")
        try:
            file_id = await self._uploaded(wave, path)
        except ModelError as error:
            raise _NotTaken(error) from error
        wave = await self._store.keep(wave, file_id=file_id)
        wave = await self._store.keep(wave, state="creating", created_at=time.time())
        batch = await self._created(wave)
        return await self._store.keep(
            wave, state="out", batch_id=batch.id, status=batch.status, expires_at=batch.expires_at, note=""
        )

    async def _uploaded(self, wave: Wave, path: Path) -> str:
        """Upload the file. Of two, which an answer lost may leave, the first is removed."""
        tries = 0

        async def upload() -> str:
            nonlocal tries
            tries += 1
            return await self._api.upload(path, wave.file_name)

        file_id = await persist(upload, self._settings.pace, partial(self._note, wave))
        if tries > 1:
            with suppress(ModelError):
                for double in await self._api.files_named(wave.file_name):
                    if double != file_id:
                        await self._api.delete(double)
        return file_id

    async def _created(self, wave: Wave) -> Batch:
        """Make the batch. One whose making got no answer may be there all the same, or soon: it is looked for."""
        pace, asked, file_id = self._settings.pace, 0, wave.file_id
        assert file_id is not None

        async def create() -> Batch:
            nonlocal asked
            if asked and (made := await self.adopted(wave)) is not None:
                return made
            asked += 1
            try:
                return await self._api.create(file_id, wave.endpoint, self._settings.window, wave.id)
            except ModelError as error:
                if asked > 1 or error.retryable or isinstance(error, ServerError):
                    raise
                raise _NotTaken(error) from error

        batch = await persist(create, pace, partial(self._note, wave))
        if asked == 1:
            return batch
        return await persist(partial(self.adopted, wave), pace, partial(self._note, wave)) or batch

    async def adopted(self, wave: Wave) -> Batch | None:
        """The batch that was made for this wave, if one was. Of two, which an answer lost may leave, one is stopped."""
        made = await self._api.of_wave(wave.id, wave.file_id, wave.written_at)
        for double in made[1:]:
            with suppress(ModelError):
                await self._api.cancel(double.id)
        return made[0] if made else None

    async def _refused(self, wave: Wave, file: _File, error: ModelError) -> Wave:
        """Nothing of a wave was taken: it is too large and travels in smaller ones, or all its draws fail."""
        await self.forget(wave, str(error))
        if error.status == 413 and not isinstance(error, StorageFull) and len(file.aboard) > 1:
            self._most_bytes = max(1, min(self._most_bytes, file.size // 2))  # a smaller one may be known by now
            for line in file.aboard:
                line.land(Turn.AGAIN)
        else:
            error.retryable = False
            for line in file.aboard:
                line.land(error)
        return structs.replace(wave, state="dropped")

    async def forget(self, wave: Wave, why: str) -> Wave:
        """A wave that never became a batch: its draws are asked in another, and its file is removed."""
        with suppress(ModelError):
            ids = [wave.file_id] if wave.file_id else await self._api.files_named(wave.file_name)
            for id_ in ids:
                await self._api.delete(id_)
        return await self._store.keep(wave, forget=True, state="dropped", note=why)

    def _note(self, wave: Wave, said: str) -> None:
        self._changed(structs.replace(wave, note=said))
