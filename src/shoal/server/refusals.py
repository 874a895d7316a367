"""What a client is told when its request fails: a status and an error of the OpenAI API's shape."""

import math
import re
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    BudgetExceeded,
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelError,
    QuotaExceeded,
    RateLimited,
    SandboxUnavailable,
    ShoalError,
    TechniqueError,
    UsageError,
    told,
)

_PATIENCE = 60.0  # seconds: the SDKs wait no longer, and try again too early instead


class Refusal(ShoalError):
    """A request that is not carried out, and what is said of it. `retry_after` in seconds.

    `cause` is one word for logs and metrics: the error's class where an error of ours is behind it, else the code.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        cause: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.cause = cause or code or kind

    def body(self) -> bytes:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> dict[str, str]:
        """`x-should-retry` is what the official SDKs go by before they go by the status."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        hopeless = self.kind in ("budget_exceeded", "insufficient_quota")
        if hopeless or (self.retry_after is not None and self.retry_after > _PATIENCE):
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def unknown_model(name: str, hint: str) -> Refusal:
    return Refusal(404, f"The model {name[:200]!r} does not exist; {hint}", param="model", code="model_not_found")


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


class _Kind(Struct, frozen=True):
    status: int
    kind: str
    code: str | None = None


# The first class that fits; a model's own failure is never the client's 401 or 500.
_KINDS: tuple[tuple[type[ShoalError], _Kind], ...] = (
    (SandboxUnavailable, _Kind(400, "invalid_request_error", "sandbox_unavailable")),
    (BudgetExceeded, _Kind(429, "budget_exceeded", "budget_exceeded")),
    (ContextLengthExceeded, _Kind(400, "invalid_request_error", "context_length_exceeded")),
    (QuotaExceeded, _Kind(429, "insufficient_quota", "insufficient_quota")),
    (RateLimited, _Kind(429, "rate_limit_error", "rate_limit_exceeded")),
    (DeadlineExceeded, _Kind(504, "timeout_error", "upstream_timeout")),
    (AuthenticationFailed, _Kind(502, "upstream_error", "upstream_authentication")),
    (BadRequest, _Kind(400, "invalid_request_error")),
    (ModelError, _Kind(502, "upstream_error", "upstream_error")),
    (TechniqueError, _Kind(502, "technique_error", "technique_error")),
    (UsageError, _Kind(400, "invalid_request_error")),
)
_FALLBACK = _Kind(502, "server_error", "server_error")


def refusal_of(error: ShoalError) -> Refusal:
    """What a client is told of an error of ours."""
    if isinstance(error, Refusal):
        return error
    kind = next((kind for class_, kind in _KINDS if isinstance(error, class_)), _FALLBACK)
    status = kind.status
    if isinstance(error, BadRequest) and 300 <= (error.status or 0) < 400:  # the operator's URL is wrong
        kind = _Kind(502, "upstream_error", "upstream_error")
        status = kind.status
    if type(error) is BadRequest and error.status in (404, 413, 422):
        status = error.status
    message, retry_after = told(error), getattr(error, "retry_after", None)
    if isinstance(error, AuthenticationFailed):
        message = f"{error.endpoint}: the server's own key for this model was refused"
    return Refusal(status, message, kind=kind.kind, code=kind.code, retry_after=retry_after, cause=type(error).__name__)


_PATH = re.compile(r" - at `\$\.?(.*)`$")
_decoder = cache(msgspec.json.Decoder)  # making one takes longer than reading a short body


def read_as(data: bytes | Any, kind: Any, *, decoded: bool = False) -> Any:
    """A body as a `kind`; Refusal says what is wrong and, as `param`, where."""
    try:
        return msgspec.convert(data, kind) if decoded else _decoder(kind).decode(data)
    except msgspec.ValidationError as error:
        message = str(error)
        path = _PATH.search(message)
        param = path[1] if path else None
        said = _PATH.sub("", message)
        raise invalid(f"{param}: {said}" if param else said, param) from None
    except RecursionError:
        raise invalid("The body is nested too deeply") from None
    except ValueError as error:
        raise invalid(f"The body is not JSON: {error}") from None
