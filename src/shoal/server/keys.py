"""Who is asking: API keys, which are kept as digests only, and what each may do."""

import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256

from shoal.runtime.budget import Budget
from shoal.runtime.types import Usage
from shoal.server.names import Served
from shoal.server.refusals import Refusal
from shoal.server.settings import KeySettings

_LONGEST = 512


class Caller:
    """Somebody with a key, or anybody where no keys are asked for. `spent` is what it cost since the server began."""

    def __init__(self, id_: str, settings: KeySettings | None) -> None:
        self.id = id_
        self.settings = settings
        self.spent = Usage()

    def check(self, served: Served) -> None:
        """Refuse, with 403, a model or technique that the key does not cover."""
        if self.settings is None:
            return
        models, techniques = self.settings.models, self.settings.techniques
        if models and not {served.name, served.base_name} & set(models):
            message = f"this key does not cover the model {served.name[:200]!r}; it covers {', '.join(models)}"
            raise Refusal(403, message, kind="permission_error", param="model", code="model_not_allowed")
        refused = [slug for slug in served.slugs if techniques is not None and slug not in techniques]
        if refused:
            message = f"this key does not cover the technique {refused[0]!r}"
            raise Refusal(403, message, kind="permission_error", param="model", code="technique_not_allowed")

    @asynccontextmanager
    async def admitted(self, budget: Budget) -> AsyncIterator[None]:
        """One request of the caller's: what the budget says was spent, in the end, is the caller's to pay."""
        try:
            yield
        finally:
            self.spent = self.spent + budget.spent


class Keys:
    """The keys that open the server; without any, everybody may come in."""

    def __init__(self, keys: Mapping[str, KeySettings]) -> None:
        self._callers = [(bytes.fromhex(key.sha256), Caller(name, key)) for name, key in keys.items()]
        self._anybody = None if keys else Caller("anybody", None)

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
        presented = presented_key(headers)
        digest = sha256(presented.encode("utf-8", "surrogateescape")[:_LONGEST]).digest()
        found = [caller for known, caller in self._callers if hmac.compare_digest(known, digest)]
        if not presented or not found:
            message = "A key of this server is needed: Authorization: Bearer KEY"
            raise Refusal(401, message, kind="authentication_error", code="invalid_api_key")
        return found[0]


def presented_key(headers: Mapping[str, str]) -> str:
    """The key in `Authorization: Bearer KEY`, or in `x-api-key`, as Anthropic's clients send it."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key", "").strip()


def settings_for(key: str) -> KeySettings:
    """A key without limits of its own."""
    return KeySettings(sha256(key.encode("utf-8", "surrogateescape")).hexdigest())
