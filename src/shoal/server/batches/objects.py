"""What the API tells of files and batches, and what a batch's lines look like in its files. Pure data."""

import re
import secrets
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shoal.server.refusals import invalid

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED = frozenset(("failed", "completed", "expired", "cancelled"))
_encode = msgspec.json.Encoder().encode


class File(Struct, frozen=True, kw_only=True):
    """A file that is kept. `filename` is the client's word for it and names nothing here."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class Fault(Struct, frozen=True):
    """Why an input file is not worked on; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Faults(Struct, frozen=True):
    data: list[Fault]
    object: Literal["list"] = "list"


class Counts(Struct, frozen=True):
    """Lines of a batch: all, those answered, and those that failed by themselves."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Cached(Struct, frozen=True):
    cached_tokens: int = 0


class Reasoning(Struct, frozen=True):
    reasoning_tokens: int = 0


class Tokens(Struct, frozen=True):
    """The tokens of all answers of a batch."""

    input_tokens: int = 0
    input_tokens_details: Cached = Cached()
    output_tokens: int = 0
    output_tokens_details: Reasoning = Reasoning()
    total_tokens: int = 0


class Batch(Struct, frozen=True, kw_only=True):
    """A batch as the API tells of it. Times are seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: Faults | None = None
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    usage: Tokens | None = None
    metadata: dict[str, str] | None = None


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def derived_id(prefix: str, *parts: object) -> str:
    """The same for the same parts: what is written twice, after a crash, is the same thing."""
    return prefix + blake2b(repr(parts).encode(), digest_size=12).hexdigest()


_WINDOW = re.compile(r"([1-9]\d{0,4})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_WINDOW = 30 * 86400


def window_seconds(text: str) -> int:
    """`24h`, or any other number of seconds, minutes, hours or days, up to 30 days."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_WINDOW:
        raise invalid("completion_window: 24h, or another time up to 30d", "completion_window")
    return seconds


# Lines of the files that a batch gives


def answered_line(batch: str, number: int, custom_id: str, status: int, body: bytes) -> bytes:
    """The line of a request that got a reply, good or bad. `body` is JSON."""
    head = {"status_code": status, "request_id": derived_id("req_", batch, number)}
    return _line(batch, number, custom_id, {**head, "body": msgspec.Raw(body)}, None)


def unanswered_line(batch: str, number: int, custom_id: str, status: Status) -> bytes:
    """The line of a request that a batch ended without, being expired or cancelled."""
    why = {
        "expired": "This request could not be carried out before the completion window ended.",
        "cancelled": "The batch was cancelled before this request was carried out.",
    }[status]
    return _line(batch, number, custom_id, None, {"code": f"batch_{status}", "message": why})


def _line(batch: str, number: int, custom_id: str, response: Any, error: Any) -> bytes:
    id_ = derived_id("batch_req_", batch, number)
    return _encode({"id": id_, "custom_id": custom_id, "response": response, "error": error})


class _Usage(Struct):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: Cached | None = None
    input_tokens_details: Cached | None = None
    completion_tokens_details: Reasoning | None = None
    output_tokens_details: Reasoning | None = None


class _Body(Struct):
    usage: _Usage | None = None


class _Response(Struct):
    body: _Body


class _Answered(Struct):
    response: _Response


_answered = msgspec.json.Decoder(_Answered).decode


def tokens_of(line: bytes) -> Tokens:
    """The tokens that an output line says its answer took; none where its usage is not of the API's form."""
    try:
        usage = _answered(line).response.body.usage or _Usage()
    except msgspec.ValidationError:
        return Tokens()
    given = usage.input_tokens or usage.prompt_tokens or 0
    made = usage.output_tokens or usage.completion_tokens or 0
    return Tokens(
        given,
        usage.input_tokens_details or usage.prompt_tokens_details or Cached(),
        made,
        usage.output_tokens_details or usage.completion_tokens_details or Reasoning(),
        given + made,
    )


def added(one: Tokens, other: Tokens) -> Tokens:
    cached = one.input_tokens_details.cached_tokens + other.input_tokens_details.cached_tokens
    reasoning = one.output_tokens_details.reasoning_tokens + other.output_tokens_details.reasoning_tokens
    return Tokens(
        one.input_tokens + other.input_tokens,
        Cached(cached),
        one.output_tokens + other.output_tokens,
        Reasoning(reasoning),
        one.total_tokens + other.total_tokens,
    )
