"""What an OpenAI-compatible server's refusal means: a typed error, whether to try again, and when."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import Struct

from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextLengthExceeded,
    MalformedResponse,
    ModelError,
    QuotaExceeded,
    RateLimited,
    ServerError,
)

_MESSAGE_LIMIT = 500
_QUOTA = re.compile(
    r"insufficient_quota|billing_hard_limit|credit.?balance|insufficient.?(credits|balance|funds)", re.I
)
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|(maximum|max).{0,20}context|context.?(length|window|size)"
    r"|prompt is too long|max_model_len|input is too long",
    re.I,
)
# What a server means that answers 200 with an error in its body, where it gives no number.
_STATUS_OF_TYPE = (
    (re.compile(r"rate.?limit|too.?many.?requests", re.I), 429),
    (re.compile(r"auth|permission|api.?key", re.I), 401),
    (re.compile(r"overloaded|unavailable", re.I), 503),
    (re.compile(r"server.?error|internal|timeout", re.I), 500),
    (re.compile(r"invalid|bad.?request|not.?found", re.I), 400),
)
_KEY = re.compile(r"\b(?:[a-z]{0,4}sk[-_]|Bearer )[\w*.-]{8,}")


class Server(Struct, frozen=True):
    """Whom a reply is from: its name in errors, the model it was asked for, and the key that must not show in them."""

    name: str = ""
    model: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {self.model!r})"

    def malformed(self, what: str) -> MalformedResponse:
        return MalformedResponse(what, endpoint=self.name)


def error_of(status: int, headers: Mapping[str, str], body: bytes, server: Server) -> ModelError:
    """The error that a reply tells of: one of another status than 200, or one that holds an error all the same.

    The server's key, and whatever looks like a key, is taken out of its words.
    """
    message, words, number = _said(body)
    message = without_keys(message, server.key)
    if status < 400:
        inner = number if number and 400 <= number < 600 else _status_of(words) if status < 300 else None
        if inner is None:
            return _not_an_answer(status, message, server)
        status = inner
    kind = _kind(status, f"{words} {message}")
    text = f"{status} {message}".rstrip()
    error = kind(text, endpoint=server.name, status=status, retry_after=retry_after(headers))
    advice = headers.get("x-should-retry")
    if advice in ("true", "false") and kind is not QuotaExceeded:
        error.retryable = advice == "true"
    return error


def _kind(status: int, said: str) -> type[ModelError]:
    if status == 402 or (400 <= status < 500 and _QUOTA.search(said)):
        return QuotaExceeded
    if status == 429:
        return RateLimited
    if status >= 500 or status in (408, 409):
        return ServerError
    if status in (401, 403):
        return AuthenticationFailed
    return ContextLengthExceeded if _CONTEXT.search(said) else BadRequest


def _not_an_answer(status: int, message: str, server: Server) -> ModelError:
    if 300 <= status < 400:
        return BadRequest(
            f"{status}: redirects are not followed; set base_url to where the API is",
            endpoint=server.name,
            status=status,
        )
    return MalformedResponse(f"an error instead of an answer: {message}", endpoint=server.name, status=status)


def _status_of(words: str) -> int | None:
    if _QUOTA.search(words):
        return 402
    return next((status for pattern, status in _STATUS_OF_TYPE if pattern.search(words)), None)


def _said(body: bytes) -> tuple[str, str, int | None]:
    """The server's message, its words for the kind of error, and its number where the body has one."""
    try:
        reply = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # a proxy's page, or nothing
        text = body[: 4 * _MESSAGE_LIMIT].decode("utf-8", "replace")
        return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:_MESSAGE_LIMIT], "", None
    error: Any = reply.get("error", reply) if isinstance(reply, dict) else reply
    if not isinstance(error, dict):
        return str(error)[:_MESSAGE_LIMIT], "", None
    message = error.get("message") or error.get("detail") or error.get("error") or ""
    code, kind = error.get("code"), error.get("type")
    number = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()) else None
    return str(message)[:_MESSAGE_LIMIT], f"{code or ''} {kind or ''}", number


def without_keys(message: str, key: str) -> str:
    """A server's words without the key that it was sent, or anything that looks like one."""
    if key:
        message = message.replace(key, "[key]")
    return _KEY.sub("[key]", message)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, else `retry-after` (seconds or a date). Nonsense is None."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    seconds = _seconds(said)
    if seconds is not None or said is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _seconds(said: str | None) -> float | None:
    if said is None or not re.fullmatch(r"\s*\d{1,12}(\.\d{1,9})?\s*", said, re.ASCII):
        return None
    return float(said)
