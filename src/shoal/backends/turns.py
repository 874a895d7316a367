"""Who is sent where, and when: requests wait here, not at a member, so that whichever has room first takes the oldest.

A request is given to a member only when it would leave at once. So a slow member never holds what a fast one could
answer, and a batch over several ends at the sum of their rates. Where more wait than there is room for, a few of them
are left to the member that knows their beginning, while the others go first; no place stays free for it.
"""

import asyncio
from copy import copy
from itertools import count

from shoal.backends.affinity import Prefixes, overloaded
from shoal.backends.line import Errand, Line, Waiter
from shoal.backends.member import Lease, Member
from shoal.errors import ShoalError
from shoal.runtime.types import Request

_SHORTEST_ALARM = 0.001
_MOST_ASIDE = 8  # questions that wait for a warm member alone; never more than it has places
_MADE_UP = 16.0  # turns that a member which was away, or passed over for a warm one, makes up for


class Turns:
    """Gives requests their turns at the members. At most `max_in_flight` are under way at all of them together."""

    def __init__(self, members: tuple[Member, ...], *, affinity: bool, max_in_flight: int | None) -> None:
        self.members = members
        self.max_in_flight = max_in_flight
        self._prefixes = Prefixes(len(members)) if affinity and len(members) > 1 else None
        self._order = count(1)
        self._latest = 0.0  # where the turns given so far have come to, see Member.finish
        self._bind(None)

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Forget what belonged to an event loop that is gone."""
        self._loop = loop
        self._lines: dict[tuple[Member, ...], Line] = {}
        self._waiting: dict[Request, Waiter] = {}
        self._gathering: dict[Request, Lease] = {}
        self._waking = False
        self._alarm: asyncio.TimerHandle | None = None
        self.waiting = 0
        for member in self.members:
            member.leases = 0
            member.health.probing = False

    @property
    def by_prefix(self) -> bool:
        return self._prefixes is not None

    def holds(self, draw: Request) -> bool:
        """Whether this very draw waits for its turn."""
        return draw in self._waiting

    async def turn(self, errand: Errand) -> Lease:
        """Leave to send the errand to a member; it is to be released."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        while (waiter := self._waiting_for(errand)) is not None and not waiter.queued:  # noqa: ASYNC110
            await asyncio.sleep(0)  # its turn has come: in the loop's next turn it is under way
        lease = self._shared(errand)
        if lease is None and waiter is None and not self._anybody_waits():
            lease = self._granted(errand, loop.time())
        if lease is not None:
            return lease
        waiter = waiter or self._queued(errand)
        future: asyncio.Future[Lease] = loop.create_future()
        waiter.futures.append(future)
        self.waiting += 1
        self._wake()
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:  # it was given to somebody who has gone
                future.result().release()
            raise
        finally:
            self.waiting -= 1
            waiter.futures.remove(future)
            if errand.draw is not None and not waiter.live() and self._waiting_for(errand) is waiter:
                del self._waiting[errand.draw]

    def _queued(self, errand: Errand) -> Waiter:
        waiter = Waiter(errand, next(self._order))
        if errand.draw is not None:
            self._waiting[errand.draw] = waiter
        self._lines.setdefault(errand.left, Line()).push(waiter)
        return waiter

    def _waiting_for(self, errand: Errand) -> Waiter | None:
        return self._waiting.get(errand.draw) if errand.draw is not None else None

    def _head_of(self, members: tuple[Member, ...]) -> Waiter | None:
        line = self._lines.get(members)
        head = line.head() if line is not None else None
        if line is not None and head is None and not line.heads_aside():
            del self._lines[members]
        return head

    def _anybody_waits(self) -> bool:
        """Whether anybody waits, for whomever: a newcomer would take a place that has just become free before them."""
        for members in list(self._lines):
            self._head_of(members)  # a line in which nobody waits goes
        return bool(self._lines)

    def _shared(self, errand: Errand) -> Lease | None:
        """Leave that costs nothing: the draw is under way, or goes in a request that is about to leave."""
        if errand.draw is None or errand.question is None:
            return None
        for member in errand.able:
            if member.scheduler.has_under_way(errand.draw):
                return Lease(member, lambda _: None, counted=False)
        lease = self._gathering.get(errand.question)
        if lease is not None and lease.member in errand.left and lease.member.scheduler.is_gathering(errand.question):
            return lease.join()
        return None

    def _granted(self, errand: Errand, now: float) -> Lease | None:
        member = self._choose(errand, now)
        return None if member is None else self._given(errand, member, now)

    def _given(self, errand: Errand, member: Member, now: float) -> Lease:
        question, probe = errand.question, member.health.out and member.health.usable(now)

        def released(lease: Lease) -> None:
            member.leases -= 1
            if probe:
                member.health.probing = False
            if question is not None and self._gathering.get(question) is lease:
                del self._gathering[question]
            self._wake()

        lease = Lease(member, released, probe=probe)
        member.leases += 1
        member.health.probing = member.health.probing or probe
        start = self._start(member)
        member.finish = start + 1.0 / member.weight
        self._latest = max(self._latest, start)
        if self._prefixes is not None:
            self._prefixes.note(errand.blocks, member.index)
        if question is not None:
            self._gathering[question] = lease
        return lease

    @property
    def _full(self) -> bool:
        return self.max_in_flight is not None and sum(member.leases for member in self.members) >= self.max_in_flight

    def _choose(self, errand: Errand, now: float) -> Member | None:
        """The member to send to now; None where none has room."""
        if self._full:
            return None
        usable = [member for member in errand.left if member.health.usable(now)]
        if not usable:
            if any(member.health.probing for member in errand.left):
                return None  # which will tell
            return min(errand.left, key=lambda member: (member.health.until, member.index))
        first = [member for member in usable if not member.fallback] or usable
        free = [member for member in first if member.has_room(now, errand.tokens)]
        if not free:
            return None
        least = min(free, key=self._order_of)
        if self._prefixes is not None and len(free) > 1 and errand.blocks:
            bits = self._prefixes.warmest(errand.blocks)
            warm = min((member for member in free if bits >> member.index & 1), key=self._order_of, default=least)
            mean = sum(member.weight for member in free) / len(free)
            if not overloaded(warm.load * mean, least.load * mean):
                return warm
        return least

    def _order_of(self, member: Member) -> tuple[float, float, int]:
        """The least loaded for its weight; of equals the one whose share is least used up; then the first."""
        return member.load, self._start(member), member.index

    def _start(self, member: Member) -> float:
        return max(member.finish, self._latest - _MADE_UP)

    # Those who wait

    def _wake(self) -> None:
        if self._lines and not self._waking and self._loop is not None:
            self._waking = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Give turns, oldest first, while somebody has room; then wait for time, or for a request to end."""
        assert self._loop is not None
        self._waking = False
        now = self._loop.time()
        while True:
            ready: tuple[Waiter, Member] | None = None
            for line in list(self._lines.values()) if self._anybody_waits() else ():
                next_ = self._next(line, now) if not self._full else None
                if next_ is not None and (ready is None or next_[0] < ready[0]):
                    ready = next_
            if ready is None:
                break
            self._serve(*ready, now)
        self._set_alarm(now)

    def _next(self, line: Line, now: float) -> tuple[Waiter, Member] | None:
        """Who of a line goes next, and where; those who had better wait for a warm member are set aside."""
        line.restore([member for member in list(line.aside) if not member.health.usable(now)])
        kept = line.heads_aside()
        ready = next(((head, member) for head, member in kept if member.has_room(now, head.errand.tokens)), None)
        while (head := line.head()) is not None and (ready is None or head < ready[0]):
            member = self._choose(head.errand, now)
            if member is None:
                break
            warm = self._better(head.errand, member, line, now)
            if warm is None:
                return head, member
            line.set_aside(head, warm)
        if ready is not None or head is not None:
            return ready
        for head, _ in line.heads_aside():  # nobody else waits: room comes before warmth
            if (member := self._choose(head.errand, now)) is not None:
                return head, member
        return None

    def _better(self, errand: Errand, free: Member, line: Line, now: float) -> Member | None:
        """The member that is worth waiting for while others go to `free`: warm, and soon to have a place again."""
        if self._prefixes is None or not errand.blocks:
            return None
        bits = self._prefixes.warmest(errand.blocks)
        warm = [member for member in errand.left if bits >> member.index & 1 and member.fallback == free.fallback]
        if not warm or free in warm:
            return None
        best = min(warm, key=lambda member: (member.load + line.aside[member] / member.weight, member.index))
        most = min(_MOST_ASIDE, best.places)
        if line.aside[best] >= most or not best.health.usable(now) or not best.only_full(now, errand.tokens):
            return None
        return None if overloaded(best.load, free.load) else best

    def _serve(self, head: Waiter, member: Member, now: float) -> None:
        seeded = head.errand.draw is not None and head.errand.draw.params.seed is not None
        taken = self._lines[head.errand.left].take(head, 1 if seeded else member.scheduler.max_n)
        lease = self._given(head.errand, member, now)
        for waiter in taken:
            for future in waiter.live():
                future.set_result(lease.join())
        lease.release()  # all who hold it joined

    def _set_alarm(self, now: float) -> None:
        assert self._loop is not None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        waits = [member.opens_in(now) for members in self._lines for member in members]
        soonest = min((wait for wait in waits if wait > 0), default=None)
        if soonest is not None:
            self._alarm = self._loop.call_later(max(soonest, _SHORTEST_ALARM), self._wake)

    def refuse(self, error: ShoalError) -> None:
        """Raise `error` in all who wait."""
        for members, line in list(self._lines.items()):
            line.restore(members)
            while (head := self._head_of(members)) is not None:
                head.queued = False
                for future in head.live():
                    future.set_exception(copy(error))
