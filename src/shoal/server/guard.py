"""What every request passes first: its host and origin, its key, and its errors made readable on the way back."""

import logging
import secrets
from ipaddress import ip_address
from time import perf_counter
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from shoal.errors import ShoalError
from shoal.server.keys import Caller, Keys
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
            response = await handler(request)
        except ShoalError as error:
            response = refused(refusal_of(error))
        except RecursionError:
            response = refused(Refusal(400, "the request is nested too deeply"))
        except web.HTTPException as error:
            response = refused(_http_refusal(request, error))
            if "allow" in error.headers:
                response.headers["allow"] = error.headers["allow"]
        except ConnectionError:
            raise
        except Exception:
            log.exception("request %s failed", id_)
            response = refused(
                Refusal(500, f"an error of the server's own; its log has it as {id_}", kind="server_error")
            )
        if not response.prepared:
            response.headers["x-request-id"] = id_
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
        if request.method in ("POST", "PUT") and request.content_type not in (
            "application/json",
            "multipart/form-data",
        ):
            raise Refusal(415, "the body must be application/json", code="unsupported_media_type")


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
