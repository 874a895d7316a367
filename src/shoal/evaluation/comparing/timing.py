"""How long a row takes that has every model to itself: the time its draws took on the wire, one after another."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from shoal.backends import BaseModel
from shoal.backends.router import Router
from shoal.batch.directory import atomic_writer
from shoal.batch.journal import Journal
from shoal.evaluation.comparing.pool import key_of
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Request
from shoal.traces.data import Trace


class Latencies:
    """The seconds that draws took from when they were sent, kept in a file beside the pool. Waiting for a turn is none
    of it: with many rows at once that says how many they are, not how long one takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identities: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        if path.exists():
            try:
                self._seconds = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
            except msgspec.DecodeError:  # it is told that times are not known, and nothing else depends on them
                self._seconds = {}

    def watch(self, bases: Sequence[BaseModel]) -> None:
        """Learn from now on how long these models take."""
        for base in bases:
            self._identities[base.name] = base.backend.identity
            for scheduler in _schedulers(base):
                scheduler.on_answered = partial(self._learn, base.backend.identity)

    def _learn(self, identity: str, request: Request, seconds: float) -> None:
        self._seconds[key_of(identity, request).hex()] = round(seconds, 6)

    def save(self) -> None:
        with atomic_writer(self._path) as out:
            out.write(msgspec.json.encode(self._seconds))

    def row(self, trace: Trace) -> float | None:
        """The seconds of the longest chain of calls, each begun when the one before had ended; None where it is not
        known of one how long it took."""
        calls = [call for call in trace.calls() if call.completion is not None]
        seconds = [self._seconds[key] for call in calls if (key := self._key(call)) in self._seconds]
        return _longest(calls, seconds) if len(seconds) == len(calls) else None

    def _key(self, call: Trace) -> str:
        assert call.request is not None
        return key_of(self._identities.get(call.name, ""), call.request).hex()


def _schedulers(base: BaseModel) -> Iterator[Scheduler]:
    if isinstance(base.scheduler, Router):
        for member in base.scheduler.members:
            yield member.scheduler
    else:
        yield base.scheduler


def _longest(calls: Sequence[Trace], seconds: Sequence[float]) -> float:
    """The weight of the heaviest chain."""
    starts = sorted(range(len(calls)), key=lambda i: calls[i].start)
    ends = sorted(range(len(calls)), key=lambda i: calls[i].end)
    ended = [calls[i].end for i in ends]
    weight = [0.0] * len(calls)
    before = [0.0]  # the heaviest chain among those that ended first, as many as the index says
    for i in starts:
        done = bisect_right(ended, calls[i].start)
        while len(before) <= done:
            before.append(max(before[-1], weight[ends[len(before) - 1]]))
        weight[i] = before[done] + seconds[i]
    return max(weight, default=0.0)


def mean_seconds(journal: Journal, latencies: Latencies) -> float | None:
    """Of the rows of an arm of which it is known."""
    found = [latencies.row(trace) for trace in _traces(journal)]
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) / len(known) if known else None


def _traces(journal: Journal) -> Iterator[Trace]:
    for number, failed in sorted(journal.outcomes().items()) if journal.traced else ():
        trace = None if failed else journal.trace(number)
        if trace is not None:
            yield trace
