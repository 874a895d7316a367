"""Refusals as answers, and errors of HTTP itself as refusals."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import hdrs, web

from shoal.server.refusals import Refusal, invalid

_JSON = "application/json"

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refused(refusal: Refusal) -> web.Response:
    """The answer that says so."""
    return web.Response(status=refusal.status, body=refusal.body(), headers=refusal.headers(), content_type=_JSON)


def closing_answer(refusal: Refusal) -> web.Response:
    """An answer after which the connection is closed."""
    response = refused(refusal)
    # The header is aiohttp's own to write, except in an answer to what it could not parse, which it takes for HTTP/1.0.
    response.headers[hdrs.CONNECTION] = "close"
    response.force_close()
    return response


def raw_answer(refusal: Refusal) -> bytes:
    """A whole answer that ends its connection, for a client whose request never reached the application."""
    body = refusal.body()
    lines = [
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}",
        f"Content-Type: {_JSON}; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(f"{name.title()}: {value}" for name, value in refusal.headers().items()),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def bad_http(message: str) -> Refusal:
    return invalid(message, code="bad_http")


def too_slow(part: str, seconds: float) -> Refusal:
    """For a client that took too long over its headers or its body."""
    return Refusal(408, f"the {part} took more than {seconds:g} s", code="request_timeout")


def refusal_of_http(request: web.Request, error: web.HTTPError | web.RequestPayloadError) -> Refusal:
    """What a client is told of an error that aiohttp or the application raised."""
    if isinstance(error, web.RequestPayloadError):
        return bad_http("the body is not what its headers say")
    if error.status == 413:
        return _too_large(request)
    told = {
        404: f"there is no {request.path[:100]} here",
        405: f"{request.path[:100]} does not take {request.method}",
    }
    return Refusal(error.status, told.get(error.status, error.reason), code=f"http_{error.status}")


def _too_large(request: web.Request) -> Refusal:
    return Refusal(413, f"the body is more than {request.client_max_size} bytes", code="body_too_large")


def is_form(request: web.Request) -> bool:
    """Whether the body is a form, whose parts are read one by one and bounded by who reads them."""
    return request.content_type == "multipart/form-data"


async def answered(request: web.Request, handler: Answering, header_bytes: int) -> web.StreamResponse:
    """The handler's answer, unless the request is too large for it to see; errors that it lets through as refusals."""
    if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > header_bytes:
        return closing_answer(bad_http(f"the headers are more than {header_bytes} bytes"))
    most = request.client_max_size
    if most and not is_form(request) and (request.content_length or 0) > most:
        return closing_answer(_too_large(request))
    try:
        response = await handler(request)
    except Refusal as refusal:
        return refused(refusal)
    except (web.RequestPayloadError, web.HTTPRequestEntityTooLarge) as error:
        return closing_answer(refusal_of_http(request, error))
    except web.HTTPError as error:
        return with_allowed(refused(refusal_of_http(request, error)), error)
    broken = request.content.exception()
    if not response.prepared and isinstance(broken, web.RequestPayloadError):
        return closing_answer(refusal_of_http(request, broken))  # whatever the application took it for
    return response


def with_allowed(response: web.Response, error: Exception) -> web.Response:
    """The answer to an error of HTTP, with the methods that a path does take."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response
