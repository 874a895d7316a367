"""How long a row would have taken with nothing had for nothing: from the call trees that the arms kept."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from shoal.batch.journal import Journal
from shoal.traces.data import Trace


class Latencies:
    """How long each draw took the arm that paid for it."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, traces: Iterator[Trace]) -> None:
        for trace in traces:
            for call in trace.calls():
                if not call.cached and call.completion is not None:
                    self._seconds[_key(call)] = call.seconds

    def row(self, trace: Trace) -> float | None:
        """The seconds of the longest chain of calls, each begun when the one before had ended; None where one of the
        draws was paid nowhere that is known."""
        calls = [call for call in trace.calls() if not call.cancelled]
        seconds = [self._of(call) for call in calls]
        known = [each for each in seconds if each is not None]
        return _longest(calls, known) if len(known) == len(calls) else None

    def _of(self, call: Trace) -> float | None:
        if not call.cached:
            return call.seconds
        paid = self._seconds.get(_key(call))
        return None if paid is None else max(paid, call.seconds)


def _key(call: Trace) -> int:
    return hash((call.name, call.request))


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


def traces_of(journal: Journal) -> Iterator[Trace]:
    """The call trees kept in an arm's journal."""
    if journal.traced:
        for number, failed in sorted(journal.outcomes().items()):
            trace = None if failed else journal.trace(number)
            if trace is not None:
                yield trace
