"""What every request passes first: its host and origin, its key, and its errors made readable on the way back."""

import logging
import secrets
from ipaddress import ip_address
from itertools import count
from time import perf_counter
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from shoal.errors import ShoalError
from shoal.runtime import scope
from shoal.server.keys import Caller, Keys
from shoal.server.messages_output import error_body
from shoal.server.refusals import Refusal, refusal_of, refused
from shoal.server.settings import Settings

log = logging.getLogger("shoal.server")
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
ID: web.RequestKey[str] = web.RequestKey("id", str)
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


class Guard:
    """The one middleware. `open_paths` need no key: they tell nothing."""

    def __init__(self, settings: Settings, keys: Keys, open_paths: frozenset[str]) -> None:
        self._hosts = _LOOPBACK | {settings.host, *settings.hosts}
        self._any_host = not is_loopback(settings.host) and not settings.hosts
        self._origins = frozenset(settings.origins)
        self._keys = keys
        self._open = open_paths
        self._ages = count(1)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guarded(request, handler)

        return guarded

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        id_, began = f"req_{secrets.token_hex(12)}", perf_counter()
        request[ID] = id_
        try:
            self._admit(request)
            with scope.setting(scope.age, next(self._ages)):  # who came first is served first
                response = await handler(request)
        except ShoalError as error:
            response = _refused(request, refusal_of(error))
        except RecursionError:
            response = _refused(request, Refusal(400, "the request is nested too deeply"))
        except web.HTTPException as error:
            response = _refused(request, _http_refusal(request, error))
            if "allow" in error.headers:
                response.headers["allow"] = error.headers["allow"]
        except ConnectionError:
            raise
        except Exception:
            log.exception("request %s failed", id_)
            message = f"an error of the server's own; its log has it as {id_}"
            response = _refused(request, Refusal(500, message, kind="server_error"))
        if not response.prepared:
            response.headers["x-request-id"] = id_
            if _is_anthropic(request):
                response.headers["request-id"] = id_
        log.info(
            "%s %s %s %d %.0f ms %s",
            *(id_, request.method, request.rel_url.raw_path, response.status, 1000 * (perf_counter() - began)),
            request[CALLER].id if CALLER in request else "-",
        )
        return response

    def _admit(self, request: web.Request) -> None:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if not self._any_host and host not in self._hosts:
            message = f"the host {host[:100]!r} is not this server; add it to hosts in [server]"
            raise Refusal(403, message, kind="permission_error", code="host_not_allowed")
        origin = request.headers.get("origin")
        if (
            origin is not None
            and origin not in self._origins
            and urlsplit(origin).netloc != request.headers.get("host")
        ):
            message = "pages of another origin may not ask this server; add it to origins in [server]"
            raise Refusal(403, message, kind="permission_error", code="origin_not_allowed")
        if request.path not in self._open:
            request[CALLER] = self._keys.caller(request.headers)
        kinds = ("application/json", "multipart/form-data")
        if request.body_exists and request.method in ("POST", "PUT") and request.content_type not in kinds:
            raise Refusal(415, "the body must be application/json", code="unsupported_media_type")


def _is_anthropic(request: web.Request) -> bool:
    """Whether the path is one of Anthropic's API, whose clients look for an error and its id in their own way."""
    return request.path == "/v1/messages" or request.path.startswith("/v1/messages/")


def _refused(request: web.Request, refusal: Refusal) -> web.Response:
    response = refused(refusal)
    if _is_anthropic(request):
        response.body = msgspec.json.encode(error_body(refusal, request[ID]))
    return response


def _http_refusal(request: web.Request, error: web.HTTPException) -> Refusal:
    said = {
        404: f"there is no {request.path[:100]} here",
        405: f"{request.path[:100]} does not take {request.method}",
        413: "the body is larger than this server takes",
    }
    return Refusal(error.status, said.get(error.status, error.reason), code=f"http_{error.status}")


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
