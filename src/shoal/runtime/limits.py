"""How much may be sent: requests and tokens a minute, and requests at once."""

import math
from collections.abc import Callable
from time import monotonic

from msgspec import Struct

from shoal.errors import ModelError, RateLimited, ServerError
from shoal.runtime.types import Request

_CHARACTERS_A_TOKEN = 4
USUAL_COMPLETION = 256  # tokens, where a request sets no limit


class Limits(Struct, frozen=True):
    """What an endpoint allows: requests a minute, tokens a minute, wire requests at once. None means no limit known."""

    rpm: float | None = None
    tpm: float | None = None
    max_in_flight: int | None = None


class Bucket:
    """A token bucket filled at `per_minute`, holding `holds` seconds' worth.

    An amount is granted while the level is above zero and may overdraw it: a request larger than the bucket passes, and
    those after it wait until the debt is paid.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = monotonic, *, holds: float = 1.0) -> None:
        self.rate = per_minute / 60.0
        self.capacity = max(1.0, self.rate * holds)
        self.level = self.capacity
        self.clock = clock
        self.filled = clock()

    def wait(self) -> float:
        """Seconds until something may be taken; 0.0 means now."""
        now = self.clock()
        self.level = min(self.capacity, self.level + (now - self.filled) * self.rate)
        self.filled = now
        # A whole unit must be there (or all the bucket can hold): a rate of 1 a minute grants one a minute.
        short = min(1.0, self.capacity) - self.level
        return short / self.rate if short > 1e-9 else 0.0

    def room(self, amount: float) -> int:
        """How many times `amount` would be granted now, one after another."""
        if self.wait():
            return 0
        return 1 + int((self.level - min(1.0, self.capacity)) / max(amount, 1.0) + 1e-9)

    def take(self, amount: float) -> None:
        self.level -= amount

    def give_back(self, amount: float) -> None:
        self.level = min(self.capacity, self.level + amount)


class RateLimit:
    """RPM and TPM reserved before sending and corrected when the real usage is known."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self.requests = Bucket(limits.rpm, clock) if limits.rpm else None
        self.tokens = Bucket(limits.tpm, clock) if limits.tpm else None

    def wait(self) -> float:
        return max((bucket.wait() for bucket in (self.requests, self.tokens) if bucket), default=0.0)

    def room(self, tokens: int) -> float:
        """How many requests of so many tokens may be sent at once now."""
        most = self.requests.room(1.0) if self.requests else math.inf
        return min(most, self.tokens.room(tokens)) if self.tokens else most

    def reserve(self, tokens: int) -> None:
        if self.requests:
            self.requests.take(1)
        if self.tokens:
            self.tokens.take(tokens)

    def settle(self, reserved: int, used: int) -> None:
        if self.tokens:
            self.tokens.give_back(reserved - used)


class AdaptiveConcurrency:
    """How many wire requests at once: starts at the ceiling, halves on overload, grows by one a round of successes."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = float(ceiling)
        self._last_cut = 0  # requests sent before the last cut say nothing about the new limit

    def succeeded(self) -> None:
        if self.limit < self.ceiling:
            self.limit = min(self.ceiling, self.limit + 1.0 / self.limit)

    def failed(self, error: ModelError, sent: int, sending: int) -> None:
        """`sent` is the ordinal of the request that failed, `sending` that of the newest one."""
        overloaded = isinstance(error, RateLimited) or (isinstance(error, ServerError) and error.status in (503, 529))
        if overloaded and sent > self._last_cut:
            self._last_cut = sending
            self.limit = max(1.0, self.limit / 2.0)


def estimated_tokens(characters: int) -> int:
    """About how many tokens a text of so many characters is, where nobody counted them."""
    return -(-characters // _CHARACTERS_A_TOKEN)


def expected_tokens(request: Request, n: int = 1) -> int:
    """What `n` draws of a request will probably cost at most: the prompt once, and n times what it may generate."""
    characters = len(request.prompt or "") + sum(len(message.text) for message in request.messages)
    return characters // _CHARACTERS_A_TOKEN + n * (request.params.max_tokens or USUAL_COMPLETION)


_AROUND_A_MESSAGE = 16  # tokens of a chat template around one, and around the whole, at the most


def most_tokens(request: Request) -> tuple[int, int]:
    """The tokens that the prompt and the reply of a draw can have: no token is of less than a byte.

    A reply that nothing limits is taken to be as long as `expected_tokens` takes it to be; images are not counted.
    """
    texts = [request.prompt or "", *(message.text for message in request.messages)]
    texts += [called.text for message in request.messages for called in message.tool_calls]
    texts += [tool.text for tool in request.tools]
    texts += [schema.text for schema in (request.params.json_schema,) if schema is not None]
    around = _AROUND_A_MESSAGE * (1 + len(request.messages))
    prompt = sum(len(text.encode(errors="replace")) for text in texts) + around
    return prompt, request.params.max_tokens or USUAL_COMPLETION
