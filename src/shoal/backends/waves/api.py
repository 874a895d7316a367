"""Files and batches of an OpenAI-compatible provider: what waves ask of it, typed."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from shoal.backends.openai import OpenAIBackend
from shoal.backends.openai_wire import Server, error_of
from shoal.backends.transport import Incoming
from shoal.errors import BadRequest, MalformedResponse

METADATA = "shoal_wave"
ENDED = frozenset(("failed", "completed", "expired", "cancelled"))
_PAGE = 100
_MOST_PAGES = 1000
_ID = re.compile(r"[\w:-][\w.:-]{0,999}", re.ASCII)  # a gateway may wrap its provider's id, and its model's, in its own
_TRANSFER = 3600.0  # seconds a file may take on its way
_LARGEST = 64 << 30  # bytes of a results file: read line by line, each bounded by itself


class Fault(Struct, frozen=True):
    """Why a batch failed; `line` counts from 1."""

    code: str | None = None
    message: str | None = None
    line: int | None = None


class _Faults(Struct, frozen=True):
    data: list[Fault] | None = None


class Counts(Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Struct, frozen=True):
    """A batch as its provider tells of it. Times are seconds since 1970."""

    id: str
    status: str = ""
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Faults | None = None
    request_counts: Counts | None = None
    metadata: dict[str, Any] | None = None
    created_at: float | None = None
    expires_at: float | None = None

    @property
    def counts(self) -> Counts:
        return self.request_counts or Counts()

    @property
    def faults(self) -> list[Fault]:
        return (self.errors.data if self.errors else None) or []


class _Page(Struct):
    data: list[Batch]
    has_more: bool = False


class _File(Struct):
    id: str
    filename: str | None = None


class _Files(Struct):
    data: list[_File]


class BatchApi:
    """Asks one provider, with the key that its backend has. Every method raises a ModelError that says what befell."""

    def __init__(self, backend: OpenAIBackend) -> None:
        self._backend = backend
        self.server: Server = backend.server

    async def upload(self, path: Path, name: str) -> str:
        """Send a file of requests; the provider's id for it."""
        with path.open("rb") as file, aiohttp.MultipartWriter("form-data") as form:
            form.append("batch").set_content_disposition("form-data", name="purpose")
            part = form.append(file, {"content-type": "application/jsonl"})
            part.set_content_disposition("form-data", name="file", filename=name)
            return _id((await self._asked("POST", "/files", _File, body=form, timeout=_TRANSFER)).id, self.server)

    async def create(self, file_id: str, endpoint: str, window: str, wave: str) -> Batch:
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": {METADATA: wave},
        }
        return self._checked(await self._asked("POST", "/batches", Batch, body=msgspec.json.encode(body)))

    async def batch(self, id_: str) -> Batch:
        return self._checked(await self._asked("GET", f"/batches/{quote(id_, safe='')}", Batch))

    async def cancel(self, id_: str) -> Batch:
        return self._checked(await self._asked("POST", f"/batches/{quote(id_, safe='')}/cancel", Batch))

    async def offered(self) -> None:
        """Raises where the provider has no batches, or does not let us in."""
        await self._asked("GET", "/batches?limit=1", _Page)

    async def of_wave(self, wave: str, file_id: str | None, since: float) -> list[Batch]:
        """The batches that were made for a wave, the first made first; `since` is when it was written."""
        found: list[Batch] = []
        after = ""
        for _ in range(_MOST_PAGES):
            page = await self._asked("GET", f"/batches?limit={_PAGE}{after}", _Page)
            found += [batch for batch in page.data if _is_for(batch, wave, file_id)]
            oldest = min((batch.created_at or 0.0 for batch in page.data), default=0.0)
            if not page.has_more or not page.data or 0.0 < oldest < since - 86400.0:
                break
            after = f"&after={quote(page.data[-1].id, safe='')}"
        oldest_first = map(self._checked, reversed(found))  # as lists are newest first, also within a second
        return sorted(oldest_first, key=lambda batch: batch.created_at or 0.0)

    async def files_named(self, name: str) -> list[str]:
        """The ids of files that were uploaded under a name."""
        files = await self._asked("GET", "/files?purpose=batch", _Files)
        return [_id(file.id, self.server) for file in files.data if file.filename == name]

    async def delete(self, file_id: str) -> None:
        await self._asked("DELETE", f"/files/{quote(file_id, safe='')}", dict)

    @asynccontextmanager
    async def content(self, file_id: str) -> AsyncIterator[Incoming]:
        path = f"/files/{quote(file_id, safe='')}/content"
        async with self._backend.exchange("GET", path, timeout=_TRANSFER, max_body=_LARGEST) as incoming:
            await self._refused(incoming)
            yield incoming

    async def _asked(self, method: str, path: str, kind: type[Any], **options: Any) -> Any:
        async with self._backend.exchange(method, path, **options) as incoming:
            await self._refused(incoming)
            body = await incoming.whole()
        try:
            return msgspec.json.decode(body, type=kind)
        except (ValueError, RecursionError) as error:
            what = f"{method} {path.partition('?')[0]}: not a reply of the batch API ({error})"
            raise MalformedResponse(what, endpoint=self.server.name) from None

    async def _refused(self, incoming: Incoming) -> None:
        if not 200 <= incoming.status < 300:
            body = await incoming.whole()
            error = error_of(incoming.status, incoming.headers, body, self.server)
            if incoming.status == 413 and b"storage_full" in body:
                error = StorageFull(str(error), status=413)
            raise error

    def _checked(self, batch: Batch) -> Batch:
        for id_ in (batch.id, batch.input_file_id, batch.output_file_id, batch.error_file_id):
            if id_ is not None:
                _id(id_, self.server)
        return batch


class StorageFull(BadRequest):
    """The provider keeps no more files of ours until some are deleted."""


def _is_for(batch: Batch, wave: str, file_id: str | None) -> bool:
    return (batch.metadata or {}).get(METADATA) == wave or (file_id is not None and batch.input_file_id == file_id)


def _id(id_: str, server: Server) -> str:
    """An id that may stand in an address: it is the provider's word, and nothing else of the address may be."""
    if not _ID.fullmatch(id_):
        raise MalformedResponse("an id that is none", endpoint=server.name)
    return id_
