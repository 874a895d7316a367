"""/v1/files: uploads go to disk as they come, and each file belongs to the key that made it."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http import HttpProcessingError
from msgspec import Struct

from shoal.server.batches.objects import File, new_id
from shoal.server.batches.state import Page, State, private_file
from shoal.server.http.replies import json_reply
from shoal.server.refusals import Refusal, invalid

_CHUNK = 1 << 20
_MOST_PARTS = 16
_LONGEST_FIELD = 1024
_DIRECTORIES = re.compile(r"[/\\]")
_UNPRINTED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


async def upload(request: web.Request, state: State, owner: str, most: int, most_stored: int) -> web.Response:
    """POST /v1/files: a form with `purpose` (batch) and `file`, of up to `most` bytes."""
    room = min(most, most_stored - state.stored(owner) - state.arriving[owner])
    refusal = _too_large(most) if room == most else _no_room(most_stored)
    if request.content_type != "multipart/form-data":
        raise invalid("a file is sent as multipart/form-data, with the fields purpose and file")
    if room <= 0 or (request.content_length or 0) > room + _MOST_PARTS * _CHUNK:
        raise refusal
    if "content-encoding" not in request.headers:
        room = min(room, request.content_length or room)
    state.arriving[owner] += room
    try:
        return json_reply(await _uploaded(request, state, owner, room, refusal))
    finally:
        state.arriving[owner] -= room


async def _uploaded(request: web.Request, state: State, owner: str, room: int, too_large: Refusal) -> File:
    id_ = new_id("file-")
    path = state.content(id_)
    try:
        file = _file(id_, await _form(request, path, room, too_large))
    except BaseException:  # also where the client has gone
        path.unlink(missing_ok=True)
        raise
    try:
        await state.keep_file(owner, file)
    except Exception:  # whoever goes now leaves a file that is listed, or soon will be
        path.unlink(missing_ok=True)
        raise
    return file


class _Form(Struct):
    """What an upload's form said; `bytes` is None where there was no file in it."""

    purpose: str | None = None
    filename: str = ""
    bytes: int | None = None


def _file(id_: str, form: _Form) -> File:
    if form.bytes is None:
        raise invalid("file: missing", "file")
    if form.purpose != "batch":
        raise invalid("purpose: must be batch", "purpose")
    filename = _UNPRINTED.sub("", _DIRECTORIES.split(form.filename)[-1])[:255] or "upload.jsonl"
    return File(id=id_, bytes=form.bytes, created_at=int(time.time()), filename=filename, purpose="batch")


async def _form(request: web.Request, path: Path, room: int, too_large: Refusal) -> _Form:
    form = _Form()
    try:
        parts = await request.multipart()
        for _ in range(_MOST_PARTS):
            part = await parts.next()
            if part is None:
                return form
            await _take(part, form, path, room, too_large)
    except (ValueError, AssertionError, HttpProcessingError) as error:  # the reader's words for broken bodies
        raise invalid(f"not a whole form: {error}") from None
    raise invalid(f"the form has more than {_MOST_PARTS} parts")


async def _take(
    part: MultipartReader | BodyPartReader | Any, form: _Form, path: Path, room: int, too_large: Refusal
) -> None:
    """Take one part of a form: the file, the purpose, or something that is passed over."""
    if not isinstance(part, BodyPartReader):
        raise invalid("a part of the form is a form itself")
    if part.name == "file":
        if form.bytes is not None:
            raise invalid("file: there is more than one", "file")
        form.filename = part.filename or ""
        form.bytes = await _received(part, path, room, too_large)
    elif part.name == "purpose":
        form.purpose = (await part.read_chunk(_LONGEST_FIELD)).decode("utf-8", "replace")
    elif (part.name or "").startswith("expires_after"):
        raise invalid("expires_after: files stay here until they are deleted", "expires_after")


async def _received(part: BodyPartReader, path: Path, room: int, too_large: Refusal) -> int:
    """Write a part to disk as it comes; its size."""
    size = 0
    waiting = bytearray()
    with os.fdopen(private_file(path), "wb", buffering=0) as out:
        while chunk := await part.read_chunk(1 << 16):
            size += len(chunk)
            if size > room:
                raise too_large
            waiting += chunk
            if len(waiting) >= _CHUNK:
                await asyncio.to_thread(_write, out, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(_write, out, bytes(waiting), last=True)
    return size


def _write(out: BinaryIO | Any, data: bytes, *, last: bool = False) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
    if last:
        os.fsync(out.fileno())


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the file is larger than the {most} bytes this server takes", param="file")


def _no_room(most_stored: int) -> Refusal:
    message = f"this key's files may take {most_stored} bytes together; delete some"
    return Refusal(413, message, param="file", code="storage_full")


async def list_files(request: web.Request, state: State, owner: str) -> web.Response:
    """GET /v1/files."""
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order: must be asc or desc", "order")
    page = Page(number_in(request, "limit", 10_000, 10_000), request.query.get("after"), order == "asc")
    return listing(state.files(owner, request.query.get("purpose"), page), page)


async def get_file(request: web.Request, state: State, owner: str) -> web.Response:
    """GET /v1/files/{id}."""
    return json_reply(_found(request, state, owner))


async def get_content(request: web.Request, state: State, owner: str) -> web.StreamResponse:
    """GET /v1/files/{id}/content."""
    file = _found(request, state, owner)
    # Whatever a client wrote into it, no browser is to take it for a page of this server.
    headers = {"content-type": "application/octet-stream", "x-content-type-options": "nosniff"}
    return web.FileResponse(state.content(file), headers=headers)


async def delete_file(request: web.Request, state: State, owner: str) -> web.Response:
    """DELETE /v1/files/{id}."""
    file = _found(request, state, owner)
    for other, batch in state.open_batches():
        if other == owner and batch.input_file_id == file.id:
            raise invalid(f"the file is the input of {batch.id}, which is {batch.status}; cancel that first")
    await state.delete_file(file)
    return json_reply({"id": file.id, "object": "file", "deleted": True})


def _found(request: web.Request, state: State, owner: str) -> File:
    id_ = request.match_info["id"]
    file = state.file(owner, id_)
    if file is None:
        raise Refusal(404, f"No such file: {id_[:100]!r}", param="id", code="not_found")
    return file


def number_in(request: web.Request, name: str, default: int, most: int) -> int:
    """A number of the query, from 1 to `most`."""
    text = request.query.get(name, str(default))
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= value <= most:
        raise invalid(f"{name}: must be a number from 1 to {most}", name)
    return value


def listing(found: "list[Any]", page: Page) -> web.Response:
    """A page of a list; `found` has one entry more than the page where there are more."""
    data = found[: page.limit]
    ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {"first_id": None, "last_id": None}
    return json_reply({"object": "list", "data": data, **ends, "has_more": len(found) > page.limit})
