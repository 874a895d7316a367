"""One member of a router: its model, its share, how it is doing, and what is under way there."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import structs

from shoal.backends.health import Health
from shoal.errors import ModelError, Unsupported, UsageError
from shoal.runtime.backend import refuse_unsupported
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Request

if TYPE_CHECKING:
    from shoal.backends import BaseModel


class Member:
    """A base model among others. `leases` counts the requests it was given and has not answered.

    It tries nothing again by itself: where a request goes next is the router's to say.
    """

    def __init__(self, model: "BaseModel", *, weight: float = 1.0, fallback: bool = False) -> None:
        self.model = model
        self.weight = weight
        self.fallback = fallback
        self.index = 0
        self.leases = 0
        self.finish = 0.0  # in turns: when its share of what was given out so far is used up
        if not isinstance(model.scheduler, Scheduler):
            raise UsageError(f"{model.name} is several models itself; name its members")
        self.scheduler = model.scheduler
        self.admission = self.scheduler.admission
        self.health = Health(self.admission.retry.max_retry_after)
        self.admission.retry = structs.replace(self.admission.retry, attempts=1)

    @property
    def load(self) -> float:
        return self.leases / self.weight

    def lacks(self, request: Request) -> str | None:
        """Why the member cannot be asked this, or None where it can."""
        try:
            refuse_unsupported(request, self.model.backend.capabilities, self.model.name)
        except Unsupported as error:
            return str(error)
        return None

    @property
    def places(self) -> int:
        """Requests it takes at once, at present."""
        return self.admission.limit * self.model.backend.capabilities.max_batch

    def has_room(self, now: float, tokens: int) -> bool:
        """Whether one more request would leave at once."""
        return self.leases < self.places and self._may_send(now, tokens)

    def only_full(self, now: float, tokens: int) -> bool:
        """Whether it would leave at once if one of those under way were over."""
        return self.leases >= self.places and self._may_send(now, tokens)

    def _may_send(self, now: float, tokens: int) -> bool:
        """Whether rates and rests let one more through."""
        batch = self.model.backend.capabilities.max_batch
        unsent = max(0, self.leases - self.admission.in_flight * batch)
        return now >= self.health.rests_until and self.admission.room(now, tokens) * batch > unsent

    def opens_in(self, now: float) -> float:
        """Seconds until time alone may change whether it can be asked; 0.0 where it will not."""
        return max(self.admission.pause(now), self.health.until - now, self.health.rests_until - now, 0.0)

    def __repr__(self) -> str:
        return repr(self.model)


class Lease:
    """Leave to send one request to a member, held by all draws that go in it. Uncounted where they go in another's."""

    __slots__ = ("_holders", "_released", "counted", "member", "probe")

    def __init__(
        self, member: Member, released: "Callable[[Lease], None]", *, probe: bool = False, counted: bool = True
    ) -> None:
        self.member = member
        self.probe = probe
        self.counted = counted
        self._released = released
        self._holders = 1

    def join(self) -> "Lease":
        self._holders += 1
        return self

    def release(self) -> None:
        self._holders -= 1
        if not self._holders and self._released is not _done:
            released, self._released = self._released, _done
            released(self)

    def answered(self) -> None:
        self.member.health.answered()

    def report(self, error: ModelError, now: float) -> bool:
        """What became of the request, told once for all its draws. Whether this is that once."""
        if not self.counted:
            return False
        self.counted = False
        self.member.health.failed(error, now)
        return True


def _done(_: Lease) -> None:
    """A lease is given back once."""
