"""What is remembered of a request while it is answered, for its line in the log and for the metrics."""

import logging
import secrets
import sys
import traceback
import warnings
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, Literal

import msgspec
from aiohttp import BadContentDispositionHeader, BadContentDispositionParam
from msgspec import Struct

from shoal.runtime.types import Usage

log = logging.getLogger("shoal.server")
_LONGEST = 200


class Record(Struct):
    """One request. What a client chose (`path`, `name`) is for the log alone.

    `base` is the operator's name of the model that answers and `slugs` the techniques on it. `error` is what the client
    was told went wrong, in one word. `reply` collects what a stream says where content is logged, else it is None.
    """

    method: str
    path: str
    id: str = ""
    key: str = "-"
    name: str = ""
    base: str = ""
    slugs: tuple[str, ...] = ()
    usage: Usage = Usage()
    error: str = ""
    status: int = 499  # the client went away, unless it is set
    began: float = 0.0
    ended: float = 0.0
    reply: bytearray | None = None

    def __post_init__(self) -> None:
        self.id = self.id or f"req_{secrets.token_hex(12)}"
        self.began = perf_counter()

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def __str__(self) -> str:
        """The line in the log: no client can begin another line, or pass for another field."""
        parts = [self.id, self.method, _plain(self.path), str(self.status), f"{1000 * self.seconds:.0f} ms", self.key]
        if self.name:
            parts.append(_plain(self.name))
        if self.usage != Usage():
            usage = self.usage
            parts.append(
                f"{usage.calls} call{'s' * (usage.calls != 1)} {usage.prompt_tokens}+{usage.completion_tokens} tokens"
            )
        if self.error:
            parts.append(self.error)
        return " ".join(parts)

    def fields(self) -> dict[str, Any]:
        """The same for a log that programs read."""
        names = ("id", "method", "path", "status", "key", "name", "base", "slugs", "error")
        usage = ("calls", "cached_calls", "prompt_tokens", "completion_tokens")
        return {
            "time": round(time(), 3),
            "ms": round(1000 * self.seconds, 1),
            **{name: getattr(self, name) for name in names},
            **{name: getattr(self.usage, name) for name in usage},
        }


def _plain(text: str) -> str:
    text = text[:_LONGEST]
    return text if text.isascii() and text.isprintable() and " " not in text else ascii(text)


current: ContextVar[Record | None] = ContextVar("record", default=None)


def note_usage(usage: Usage) -> None:
    """Add to what the request in scope has cost."""
    record = current.get()
    if record is not None:
        record.usage = record.usage + usage


def note_model(name: str, base: str, slugs: tuple[str, ...]) -> None:
    """Who answers the request in scope."""
    record = current.get()
    if record is not None:
        record.name, record.base, record.slugs = name, base, slugs


def log_fault(what: str, error: BaseException) -> None:
    """Log an error of the server's own: where it happened, and not its words, which may be a client's or a model's."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", what, type(error).__name__, where.rstrip())


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line; that of a request has its fields, any other a message."""

    def format(self, record: logging.LogRecord) -> str:
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(about, Record):
            fields = about.fields()
        else:
            fields = {"time": round(record.created, 3), "level": record.levelname, "message": super().format(record)}
        return msgspec.json.encode(fields).decode()


def log_to_stderr(form: Literal["text", "json"], *, quiet: bool) -> None:
    """Log to standard error; `quiet`: only what went wrong in the server itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING if quiet else logging.INFO)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    told = logging.getLogger("shoal.server")
    warnings.showwarning = lambda message, *_, **__: told.warning("%s", message)
    for warning in (BadContentDispositionHeader, BadContentDispositionParam):  # they repeat what a client sent
        warnings.simplefilter("ignore", warning)
