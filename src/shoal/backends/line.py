"""Those who wait for the same members of a router: oldest first, the draws of one question together.

Some of them wait for one member alone, which has their prompt's beginning in its cache and no place free right now.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Iterable

from shoal.backends.member import Lease, Member
from shoal.runtime import scope
from shoal.runtime.types import Request


class Errand:
    """A request on its way: the members that can do it, those left to try, and how often it was sent.

    `draw` is what the scheduler of a member is asked, where that may be shared with others; `blocks` are the hashes of
    the prompt's beginnings.
    """

    def __init__(self, able: tuple[Member, ...], draw: Request | None, tokens: int, blocks: list[int]) -> None:
        self.able = self.left = able
        self.draw = draw
        self.question = draw.question() if draw is not None else None
        self.tokens = tokens
        self.blocks = blocks
        self.age = scope.age.get()
        self.attempts = 0
        self.deadline = 0.0
        self.begun = False  # a reader has seen a part of the answer


class Waiter:
    """An errand that waits for its turn, and those that wait for the very same draw."""

    __slots__ = ("errand", "futures", "order", "queued")

    def __init__(self, errand: Errand, order: int) -> None:
        self.errand = errand
        self.order = order
        self.queued = True
        self.futures: list[asyncio.Future[Lease]] = []

    def __lt__(self, other: "Waiter") -> bool:
        return (self.errand.age, self.order) < (other.errand.age, other.order)

    @property
    def group(self) -> "Request | Waiter":
        """What its siblings have in common with it: they leave in one request."""
        return self.errand.question or self

    def live(self) -> list[asyncio.Future[Lease]]:
        return [future for future in self.futures if not future.done()]


class Line:
    """The waiters; `aside` counts, by member, the questions that wait for it alone."""

    def __init__(self) -> None:
        self._heap: list[Waiter] = []
        self._heaps_aside: dict[Member, list[Waiter]] = {}
        self._siblings: dict[Request | Waiter, deque[Waiter]] = {}
        self._placed: dict[Request | Waiter, Member] = {}
        self.aside: Counter[Member] = Counter()

    def push(self, waiter: Waiter) -> None:
        heapq.heappush(self._heap, waiter)
        self._siblings.setdefault(waiter.group, deque()).append(waiter)

    def head(self, member: Member | None = None) -> Waiter | None:
        """The oldest of those who wait for anybody, or of those who wait for `member` alone."""
        heap = self._heap if member is None else self._heaps_aside.get(member, [])
        while heap and not (heap[0].queued and heap[0].live()):
            gone = heapq.heappop(heap)
            if gone.queued:
                gone.queued = False
                self._siblings[gone.group].remove(gone)
                self._tidy(gone.group)
        return heap[0] if heap else None

    def heads_aside(self) -> list[tuple[Waiter, Member]]:
        """Of those who wait for one member alone, each member's oldest; the oldest of all first."""
        found = [(head, member) for member in list(self._heaps_aside) if (head := self.head(member)) is not None]
        return sorted(found, key=lambda pair: (pair[0].errand.age, pair[0].order))

    def set_aside(self, waiter: Waiter, member: Member) -> None:
        """The head waits for this member alone from here on."""
        heapq.heappop(self._heap)
        heapq.heappush(self._heaps_aside.setdefault(member, []), waiter)
        if waiter.group not in self._placed:
            self._placed[waiter.group] = member
            self.aside[member] += 1

    def restore(self, members: Iterable[Member]) -> None:
        """Who waited for one of these alone waits for anybody again."""
        for member in members:
            for waiter in self._heaps_aside.pop(member, []):
                if waiter.queued:
                    heapq.heappush(self._heap, waiter)
            self._placed = {group: place for group, place in self._placed.items() if place is not member}
            del self.aside[member]

    def take(self, first: Waiter, most: int) -> list[Waiter]:
        """A waiter, and up to `most` draws of its question in all."""
        first.queued = False
        taken = [first]
        siblings = self._siblings[first.group]
        while siblings and (len(taken) < most or not siblings[0].queued):
            sibling = siblings.popleft()
            if sibling.queued and sibling.live():
                taken.append(sibling)
            sibling.queued = False
        self._tidy(first.group)
        return taken

    def _tidy(self, group: Request | Waiter) -> None:
        if not self._siblings[group]:
            del self._siblings[group]
            if (member := self._placed.pop(group, None)) is not None:
                self.aside[member] -= 1
