"""The endpoints of files and batches."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Raw, Struct

from shoal.errors import StoreError
from shoal.server.access.callers import Caller
from shoal.server.batches import files
from shoal.server.batches.answering import ENDPOINTS
from shoal.server.batches.running import Batches
from shoal.server.batches.state import Page
from shoal.server.http.guard import CALLER, ID
from shoal.server.http.replies import json_reply
from shoal.server.refusals import Refusal, invalid, read_as

log = logging.getLogger("shoal.server")
BATCHES: web.AppKey[Batches] = web.AppKey("batches", Batches)
Endpoint = Callable[[web.Request, Batches, Caller], Awaitable[web.StreamResponse]]

_Key = Annotated[str, Meta(max_length=64)]
_Value = Annotated[str, Meta(max_length=512)]


class Create(Struct):
    """The body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[_Key, _Value], Meta(max_length=16)] | None = None
    output_expires_after: Raw | None = None


def add_batches(app: web.Application, batches: Batches) -> None:
    """Serve files and batches with this application."""
    app[BATCHES] = batches
    for method, path, endpoint in _ROUTES:
        app.router.add_route(method, path, partial(_called, endpoint))
    app.cleanup_ctx.append(_running)


async def _running(app: web.Application) -> AsyncIterator[None]:
    await app[BATCHES].start()
    yield
    await app[BATCHES].stop()


async def _called(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
    try:
        return await endpoint(request, request.app[BATCHES], request[CALLER])
    except (StoreError, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        log.error("%s: %s", request[ID], error)
        message = "files cannot be kept here now: no space, or the server may not write; its log says what is wrong"
        raise Refusal(507, message, kind="server_error", code="storage_unavailable") from None


def _of_files(endpoint: Callable[..., Awaitable[web.StreamResponse]]) -> Endpoint:
    async def called(request: web.Request, batches: Batches, caller: Caller) -> web.StreamResponse:
        return await endpoint(request, batches.state, caller.id)

    return called


async def _upload(request: web.Request, batches: Batches, caller: Caller) -> web.StreamResponse:
    settings = batches.settings
    return await files.upload(request, batches.state, caller.id, settings.max_file, settings.max_stored)


async def _create(request: web.Request, batches: Batches, caller: Caller) -> web.StreamResponse:
    asked: Create = read_as(await request.read(), Create)
    if asked.endpoint not in ENDPOINTS:
        raise invalid(f"endpoint: must be {' or '.join(ENDPOINTS)}", "endpoint")
    if asked.output_expires_after is not None:
        raise invalid("output_expires_after: files stay here until they are deleted", "output_expires_after")
    file = batches.state.file(caller.id, asked.input_file_id)
    if file is None or file.purpose != "batch":
        message = f"No such file of purpose batch: {asked.input_file_id[:100]!r}"
        raise Refusal(404 if file is None else 400, message, param="input_file_id", code="not_found")
    batch = await batches.create(caller, asked.endpoint, file.id, asked.completion_window, asked.metadata)
    return json_reply(batch)


async def _list(request: web.Request, batches: Batches, caller: Caller) -> web.StreamResponse:
    page = Page(files.number_in(request, "limit", 20, 100), request.query.get("after"))
    return files.listing([batches.now(batch) for batch in batches.state.batches(caller.id, page)], page)


async def _get(request: web.Request, batches: Batches, caller: Caller) -> web.StreamResponse:
    return json_reply(batches.find(caller, request.match_info["id"]))


async def _cancel(request: web.Request, batches: Batches, caller: Caller) -> web.StreamResponse:
    return json_reply(await batches.cancel(caller, request.match_info["id"]))


_ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/files", _upload),
    ("GET", "/v1/files", _of_files(files.list_files)),
    ("GET", "/v1/files/{id}", _of_files(files.get_file)),
    ("GET", "/v1/files/{id}/content", _of_files(files.get_content)),
    ("DELETE", "/v1/files/{id}", _of_files(files.delete_file)),
    ("POST", "/v1/batches", _create),
    ("GET", "/v1/batches", _list),
    ("GET", "/v1/batches/{id}", _get),
    ("POST", "/v1/batches/{id}/cancel", _cancel),
)
