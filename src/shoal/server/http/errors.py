"""Errors of HTTP itself, in the form of the OpenAI API."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import hdrs, web

_JSON = "application/json"

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_text(status: int, message: str, code: str) -> str:
    """An error as the OpenAI API writes it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def raw_answer(status: int, message: str, code: str, *headers: str) -> bytes:
    """A whole answer that ends its connection, for a client whose request never reached the application."""
    body = error_text(status, message, code).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {_JSON}; charset=utf-8",
        f"Content-Length: {len(body)}",
        *headers,
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def closing_answer(status: int, message: str, code: str) -> web.Response:
    """An answer after which the connection is closed."""
    # The header is aiohttp's own to write, except in an answer to what it could not parse, which it takes for HTTP/1.0.
    response = web.Response(
        status=status, text=error_text(status, message, code), content_type=_JSON, headers={hdrs.CONNECTION: "close"}
    )
    response.force_close()
    return response


def too_slow(seconds: float) -> web.HTTPRequestTimeout:
    """What reading a body raises that took more than its time."""
    message = f"the body took more than {seconds:g} s"
    return web.HTTPRequestTimeout(text=error_text(408, message, "request_timeout"), content_type=_JSON)


def is_form(request: web.Request) -> bool:
    """Whether the body is a form, whose parts are read one by one and bounded by who reads them."""
    return request.content_type == "multipart/form-data"


async def answered(request: web.Request, handler: Answering, header_bytes: int) -> web.StreamResponse:
    """The handler's answer, unless the request is too large for it to see; aiohttp's own errors in OpenAI's form."""
    if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > header_bytes:
        return closing_answer(400, f"the headers are more than {header_bytes} bytes", "bad_http")
    most = request.client_max_size
    if most and not is_form(request) and (request.content_length or 0) > most:
        return closing_answer(413, f"the body is more than {most} bytes", "body_too_large")
    try:
        response = await handler(request)
    except web.RequestPayloadError:
        return _bad_body()
    except web.HTTPRequestEntityTooLarge:
        return closing_answer(413, f"the body is more than {most} bytes", "body_too_large")
    except web.HTTPError as error:
        return _in_form(error)
    if not response.prepared and isinstance(request.content.exception(), web.RequestPayloadError):
        return _bad_body()  # whatever the application took it for
    return response


def _bad_body() -> web.Response:
    return closing_answer(400, "the body is not what its headers say", "bad_http")


def _in_form(error: web.HTTPError) -> web.Response:
    """An error that the application or aiohttp raised: 404, 405, ..."""
    text = error.text if error.content_type == _JSON else None
    if text is None:
        phrase = HTTPStatus(error.status).phrase
        text = error_text(error.status, phrase, phrase.lower().replace(" ", "_"))
    kept = {
        name: value for name, value in error.headers.items() if name not in (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH)
    }
    return web.Response(status=error.status, text=text, headers=kept, content_type=_JSON)
