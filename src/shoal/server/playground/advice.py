"""What went wrong, in words for people who do not write code, and what they can do about it."""

from typing import Any

from shoal.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ConnectionFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    QuotaExceeded,
    RateLimited,
    SandboxUnavailable,
    ServerError,
    ShoalError,
    TechniqueError,
    Unsupported,
    UsageError,
)
from shoal.server.refusals import Refusal, refusal_of

# The first class that fits.
_ADVICE: tuple[tuple[type[ShoalError], str, str], ...] = (
    (
        SandboxUnavailable,
        "This technique runs programs, and this computer cannot confine them",
        "Choose a technique that runs no code, or install the sandbox (see `shoal sandbox`).",
    ),
    (
        BudgetExceeded,
        "The run reached the limit of what one question may cost",
        "Use fewer samples, rounds or tokens; or have the limits of [server] in shoal.toml raised.",
    ),
    (
        ContextLengthExceeded,
        "The text is longer than this model can read",
        "Shorten the question or the system prompt, or choose a model with a longer context.",
    ),
    (
        QuotaExceeded,
        "The account behind this model has no credit left",
        "Choose another model, or have the account topped up.",
    ),
    (RateLimited, "The model's server asks to slow down", "Wait a minute and run again, or use fewer samples."),
    (
        AuthenticationFailed,
        "The model's server does not accept this server's key",
        "Whoever runs this server must check the key of that endpoint.",
    ),
    (DeadlineExceeded, "The model took too long", "Run again, or ask for fewer tokens."),
    (
        ConnectionFailed,
        "The model's server cannot be reached",
        "Check that it is running and that its address in shoal.toml is right; then run again.",
    ),
    (ServerError, "The model's server has a problem of its own", "Run again in a little while."),
    (
        TechniqueError,
        "The technique got replies it could not work with",
        "Run again, or try more tokens, a stronger model or a simpler technique.",
    ),
    (Unsupported, "This model cannot do what was asked", "Choose another model or another option."),
    (UsageError, "These settings do not work", "Change the setting that is named and run again."),
)
_OTHERWISE = ("The run failed", "Run again; if it keeps failing, choose another model.")


_NOT_ALLOWED = ("Your key does not cover this", "Choose another model or technique, or ask for a key that covers it.")


def failure(error: ShoalError) -> dict[str, Any]:
    """An error for the page: what it means, what exactly was said, what to do."""
    if isinstance(error, Refusal) and error.status == 403:
        meaning, advice = _NOT_ALLOWED
    else:
        meaning, advice = _said_of(_kind(error))
    return {"type": type(error).__name__, "meaning": meaning, "message": str(refusal_of(error)), "advice": advice}


def _kind(error: ShoalError) -> type[ShoalError]:
    """The class an error counts as: the server's own refusals are about the budget or about the settings."""
    if not isinstance(error, Refusal):
        return type(error)
    return BudgetExceeded if error.status == 429 or error.code == "budget_exceeded" else UsageError


def _said_of(kind: type[ShoalError]) -> tuple[str, str]:
    return next(((meaning, advice) for known, meaning, advice in _ADVICE if issubclass(kind, known)), _OTHERWISE)
