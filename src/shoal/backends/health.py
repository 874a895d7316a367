"""Whether a member of a router is in use: taken out when it fails, tried again with one request after a while.

A circuit breaker. Closed: in use. Open: out, for a cool-down that doubles each time. Half open: the cool-down is over,
and one request finds out whether the member is back.
"""

import math

from shoal.errors import AuthenticationFailed, BadRequest, CertificateError, ModelError, QuotaExceeded, RateLimited

_FAILURES = 3  # one after another take a member out: a request that fails everywhere must not take out all
_COOL_DOWN, _LONGEST = 5.0, 300.0  # seconds
_BREATHER, _LONGEST_BREATHER = 0.5, 30.0  # seconds, after a 429 that does not say how long
_AT_ONCE = (AuthenticationFailed, CertificateError, QuotaExceeded)  # whatever is asked, it fails


def blames_member(error: ModelError) -> bool:
    """Whether another member might do better: the error is not the request's own.

    404 is an address or a model's name that this one does not have.
    """
    return not isinstance(error, BadRequest) or error.status == 404


class Health:
    """What is known of a member. Times are the event loop's, in seconds."""

    def __init__(self, longest_wait: float) -> None:
        self.until = -math.inf  # out before this
        self.probing = False
        self._longest_wait = longest_wait  # a server that asks for more is out for that time
        self.rests_until = -math.inf  # asked too much: in use, and without room until then
        self._failures = self._outages = self._rests = 0

    @property
    def out(self) -> bool:
        return self._outages > 0

    def usable(self, now: float) -> bool:
        """Whether a request may go there; where it was out, one at a time."""
        return not self.out or (now >= self.until and not self.probing)

    def answered(self) -> None:
        """It is there, whatever it said."""
        self._failures = self._outages = self._rests = 0
        self.until = -math.inf

    def failed(self, error: ModelError, now: float) -> None:
        """Take an error to heart."""
        asked = error.retry_after or 0.0
        if asked > self._longest_wait:
            self._take_out(now, asked)
        elif isinstance(error, RateLimited):
            self._rest(now, asked)
        elif not blames_member(error):
            self.answered()
        elif now >= self.until:  # failures of what was sent before it went out say nothing new
            self._failures += 1
            if self.out or self._failures >= _FAILURES or isinstance(error, _AT_ONCE):
                self._take_out(now, min(_COOL_DOWN * 2.0**self._outages, _LONGEST))

    def _rest(self, now: float, asked: float) -> None:
        rests = self._rests
        self.answered()
        self._rests = rests
        if not asked and now >= self.rests_until:  # what it asks for, its admission keeps
            self.rests_until = now + min(_BREATHER * 2.0**rests, _LONGEST_BREATHER)
            self._rests += 1

    def _take_out(self, now: float, seconds: float) -> None:
        self._outages += 1
        self.until = max(self.until, now + seconds)
