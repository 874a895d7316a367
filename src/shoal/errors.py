"""Every error shoal raises, one tree.

    ShoalError
    ├── UsageError                 a spec, option, file or config key is wrong; fix it and call again
    │   ├── Unsupported            the backend cannot do what the request asks for
    │   └── RunError               a run directory holds another run
    ├── ModelError                 one call failed (endpoint, status, retryable, retry_after)
    │   ├── ConnectionFailed       no connection, or it broke before the reply was whole
    │   ├── CertificateError       the server's certificate does not verify
    │   ├── DeadlineExceeded       the call's total time ran out
    │   ├── RateLimited            429: slow down, try again
    │   ├── QuotaExceeded          429 because the account has no credit left
    │   ├── ServerError            5xx or overloaded
    │   ├── AuthenticationFailed   401, 403
    │   ├── BadRequest             400, 404, 413, 422 and other 4xx
    │   │   └── ContextLengthExceeded
    │   ├── MalformedResponse      a reply that is not a whole, valid answer
    │   └── EngineError            an in-process engine failed
    ├── TechniqueError             a technique's calls succeeded but gave nothing to answer with
    ├── InvalidOutput              a model's text is not of the form that was asked for
    ├── NotCached                  a run that may ask nothing needs a draw that is not kept
    ├── SandboxUnavailable         model-written code cannot be confined here, so it is not run
    ├── BudgetExceeded             the run's calls, tokens or seconds are spent
    └── StoreError                 a cache or journal file cannot be used
        ├── CorruptStore
        └── StoreLocked

Whether to try again is a property of the error (`retryable`), never a guess of the caller.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class ShoalError(Exception):
    """Anything shoal raises on purpose."""


class UsageError(ShoalError):
    """A spec, option, file or config key is wrong."""


class Unsupported(UsageError):
    """The backend cannot do what the request asks for."""


class RunError(UsageError):
    """The run directory holds another run: other rows, or other options."""


class ModelError(ShoalError):
    """One call of a model failed.

    `endpoint` names the server or engine (never a key), `status` the HTTP status where there was one,
    `retry_after` the seconds the server asked to wait.
    """

    retryable = False
    retry_cost = 5  # what one retry takes from the endpoint's retry budget
    max_attempts = 6

    def __init__(
        self,
        message: str,
        *,
        endpoint: str = "",
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{endpoint}: {message}" if endpoint else message)
        self.endpoint = endpoint
        self.status = status
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable


class ConnectionFailed(ModelError):
    """No connection, or it broke before the reply was whole."""

    retryable = True


class CertificateError(ModelError):
    """The server's certificate does not verify."""


class DeadlineExceeded(ModelError):
    """The call's total time ran out."""

    retryable = True
    retry_cost = 10


class RateLimited(ModelError):
    """The server asked to slow down (429)."""

    retryable = True


class QuotaExceeded(ModelError):
    """The account has no credit left; waiting does not help."""


class ServerError(ModelError):
    """The server failed or is overloaded (5xx)."""

    retryable = True


class AuthenticationFailed(ModelError):
    """The key is missing, wrong or not allowed (401, 403)."""


class BadRequest(ModelError):
    """The server refused the request (400, 404, 413, 422)."""


class ContextLengthExceeded(BadRequest):
    """The prompt and the reply do not fit the model's context."""


class MalformedResponse(ModelError):
    """A reply that is not a whole, valid answer, whatever its status."""

    retryable = True
    max_attempts = 3


class EngineError(ModelError):
    """An in-process engine failed."""


class EngineEnded(EngineError):
    """The engine's process ended at its work. The next call starts another; what kills each of them is not to go on."""

    retryable = True
    retry_cost = 0  # no server that is overloaded: all that were under way may be asked again
    max_attempts = 3


class TechniqueError(ShoalError):
    """A technique's calls succeeded but gave nothing to answer with."""


class NotCached(ShoalError):
    """A run that may ask nothing needs a draw that is not kept; the message names it."""


class InvalidOutput(ShoalError):
    """A model's text is not of the form that was asked for, and asking again did not help."""


class SandboxUnavailable(ShoalError):
    """Model-written code cannot be confined here, so it is not run; the message names what is missing."""


class BudgetExceeded(ShoalError):
    """The budget's calls, tokens or seconds are spent."""


class StoreError(ShoalError):
    """A cache or journal file cannot be used."""


class CorruptStore(StoreError):
    """The file is damaged or is not one of ours."""


class StoreLocked(StoreError):
    """Another process is using the run directory."""


def told(error: BaseException) -> str:
    """An error's message in one line, with where it happened where that is noted."""
    notes = getattr(error, "__notes__", [])
    return f"{error} ({'; '.join(notes)})" if notes else str(error)


def refuse_unknown(what: str, options: Mapping[str, Any], known: type) -> None:
    """UsageError for an option that `known`, a TypedDict, does not name."""
    for name in options:
        if name not in known.__annotations__:
            raise UsageError(f"{what} takes no {name!r}; {did_you_mean(name, known.__annotations__)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name nearest to `name`, else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}" if known else "none is known"
