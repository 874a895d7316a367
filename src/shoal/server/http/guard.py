"""What every request passes first: its host and origin, its key, and its errors made readable on the way back."""

import logging
import re
from ipaddress import ip_address
from itertools import count
from time import perf_counter

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from shoal.errors import ShoalError, UsageError
from shoal.runtime import scope
from shoal.server import records
from shoal.server.access.callers import Caller
from shoal.server.access.keys import Keys
from shoal.server.http.errors import refusal_of_http, refused, with_allowed
from shoal.server.metrics import Metrics
from shoal.server.records import Record
from shoal.server.refusals import Refusal, refusal_of
from shoal.server.settings import Settings
from shoal.server.wire.messages_output import error_body

log = logging.getLogger("shoal.server")
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
ID: web.RequestKey[str] = web.RequestKey("id", str)
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{0,5})?", re.ASCII)
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
_UPLOADS = frozenset(("/v1/files",))  # where a body is a form
_METHODS = "GET, POST, DELETE"
_EXPOSED = "x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, \
x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"


class Guard:
    """The one middleware. `open_paths` need no key: they tell nothing."""

    def __init__(self, settings: Settings, keys: Keys, metrics: Metrics, open_paths: frozenset[str]) -> None:
        self._hosts = _LOOPBACK | {host.lower() for host in (settings.host, *settings.hosts)}
        self._any_host = not is_loopback(settings.host) and not settings.hosts
        self._origins = frozenset(settings.origins)
        self._keys = keys
        self._metrics = metrics
        self._open = open_paths
        self._content = settings.log_content
        self._ages = count(1)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guarded(request, handler)

        return guarded

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        record = Record(
            request.method, request.raw_path.partition("?")[0], reply=bytearray() if self._content else None
        )
        request[ID] = record.id
        records.current.set(record)
        self._metrics.begun()
        try:
            response = await self._answered(request, handler, record)
            record.status = response.status
            return response
        finally:
            record.ended = perf_counter()
            resource = request.match_info.route.resource
            self._metrics.ended(record, resource.canonical if resource is not None else "unknown")
            log.info("%s", record)

    async def _answered(self, request: web.Request, handler: Handler, record: Record) -> web.StreamResponse:
        try:
            preflight = self._admit(request)
            if preflight is not None:
                return preflight
            if CALLER in request:
                record.key = request[CALLER].id
            with scope.setting(scope.age, next(self._ages)):  # who came first is served first
                return await (self._with_content(request, handler, record) if self._content else handler(request))
        except ShoalError as error:
            return _refused(request, refusal_of(error), record)
        except RecursionError:
            return _refused(request, Refusal(400, "the request is nested too deeply"), record)
        except (web.HTTPError, web.RequestPayloadError) as error:
            return with_allowed(_refused(request, refusal_of_http(request, error), record), error)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told, and the log
            records.log_fault(f"request {record.id} failed", error)
            message = f"an error of the server's own; its log has it as {record.id}"
            return _refused(request, Refusal(500, message, kind="server_error", code="internal_error"), record)

    async def _with_content(self, request: web.Request, handler: Handler, record: Record) -> web.StreamResponse:
        if request.content_type == "application/json":
            log.info("%s asked %s", record.id, _one_line(await request.read()))
        response = await handler(request)
        said = response.body if isinstance(response, web.Response) else record.reply
        if isinstance(said, bytes | bytearray):
            log.info("%s answered %s", record.id, _one_line(said))
        return response

    def _admit(self, request: web.Request) -> web.Response | None:
        """Refuse what may not come in. A response where the request is a browser's question what it may ask."""
        headers = request.headers
        host = _host_of(headers.get(hdrs.HOST, ""))
        if not self._any_host and host not in self._hosts:
            message = f"the host {host[:100]!r} is not this server; add it to hosts in [server]"
            raise Refusal(403, message, kind="permission_error", code="host_not_allowed")
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            self._check_origin(origin, headers.get(hdrs.HOST, ""))
            if (
                request.method == "OPTIONS"
                and origin in self._origins
                and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers
            ):
                return _preflight(headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""))
        if request.path not in self._open:
            request[CALLER] = self._keys.caller(headers)
        if request.method in _WITH_BODY and request.can_read_body:
            kind = request.content_type
            if kind != "application/json" and not (kind == "multipart/form-data" and request.path in _UPLOADS):
                raise Refusal(415, "the body must be application/json", code="unsupported_media_type")
        return None

    def _check_origin(self, origin: str, host: str) -> None:
        if origin in self._origins:
            return
        if origin.partition("://")[2] != host or not host:
            message = "pages of another origin may not ask this server; add it to origins in [server]"
            raise Refusal(403, message, kind="permission_error", code="origin_not_allowed")

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Headers of every response, streamed ones too: a signal of the application's, before they are sent."""
        headers = response.headers
        headers["x-content-type-options"] = "nosniff"
        if ID in request:
            headers["x-request-id"] = request[ID]
            if _is_anthropic(request):
                headers["request-id"] = request[ID]
        if CALLER in request:
            headers.update(request[CALLER].headers())
        if self._origins:
            headers.add("vary", "origin")
            origin = request.headers.get(hdrs.ORIGIN)
            if origin in self._origins:
                headers["access-control-allow-origin"] = origin
                headers["access-control-expose-headers"] = _EXPOSED


def _preflight(asked: str) -> web.Response:
    """What a page of an origin that the operator trusts may send: any header, but no cookies."""
    allowed = {"access-control-allow-methods": _METHODS, "access-control-max-age": "600"}
    if asked:
        allowed["access-control-allow-headers"] = asked
    return web.Response(status=204, headers=allowed)


def _is_anthropic(request: web.Request) -> bool:
    """Whether the path is one of Anthropic's API, whose clients look for an error and its id in their own way."""
    return request.path == "/v1/messages" or request.path.startswith("/v1/messages/")


def _refused(request: web.Request, refusal: Refusal, record: Record) -> web.Response:
    record.error = refusal.cause
    response = refused(refusal)
    if _is_anthropic(request):
        response.body = msgspec.json.encode(error_body(refusal, request[ID]))
    return response


def _host_of(header: str) -> str:
    """The name or address in a Host header, in lower case; empty where it is none."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").lower() if match else ""


def _one_line(content: bytes | bytearray) -> str:
    return ascii(content.decode("utf-8", "replace"))[1:-1]


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_open(settings: Settings) -> None:
    """UsageError for a server that others can reach and that asks for no key."""
    if not is_loopback(settings.host) and not settings.keys:
        raise UsageError(f"{settings.host} can be reached by others, so keys are needed: --key, or `shoal key NAME`")
