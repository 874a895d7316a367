"""Who is asking: API keys, which are kept as digests only."""

import hmac
import secrets
from collections.abc import Mapping
from hashlib import sha256

from shoal.server.access.callers import Caller
from shoal.server.access.coverage import Covered
from shoal.server.access.ledger import Ledger
from shoal.server.names import Names
from shoal.server.refusals import Refusal
from shoal.server.settings import KeySettings

_PREFIX = "shoal-"  # by which a leaked key is known for what it is
_UNLIMITED = 1 << 30


class Keys:
    """The keys that open the server; without any, everybody may come in.

    Raises UsageError for a key that is for models or techniques that are not there.
    """

    def __init__(self, keys: Mapping[str, KeySettings], names: Names, ledger: Ledger | None = None) -> None:
        self._callers = [
            (bytes.fromhex(key.sha256), Caller(name, key, Covered(key, names, f"[server.keys.{name}]"), ledger))
            for name, key in keys.items()
        ]
        self._anybody = None if keys else Caller("anybody")

    @property
    def needed(self) -> bool:
        return self._anybody is None

    def named(self, id_: str) -> Caller | None:
        """The caller of that id, where the configuration still has it."""
        if self._anybody is not None:
            return self._anybody if id_ == self._anybody.id else None
        return next((caller for _, caller in self._callers if caller.id == id_), None)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers; 401 for nobody we know. All keys are compared in full: time tells nothing."""
        if self._anybody is not None:
            return self._anybody
        presented = digest(presented_key(headers))
        found = [caller for known, caller in self._callers if hmac.compare_digest(known, presented)]
        if not found:
            message = "A key of this server is needed: Authorization: Bearer KEY"
            raise Refusal(401, message, kind="authentication_error", code="invalid_api_key")
        return found[0]


def presented_key(headers: Mapping[str, str]) -> str:
    """The key in `Authorization: Bearer KEY`, or in `x-api-key`, as Anthropic's clients send it."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key", "").strip()


def digest(key: str) -> bytes:
    """All that is kept of a key. Its 256 random bits make a slow hash needless."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key() -> str:
    """A key nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(32)


def settings_for(key: str) -> KeySettings:
    """A key without limits of its own."""
    return KeySettings(digest(key).hex(), max_in_flight=_UNLIMITED)
