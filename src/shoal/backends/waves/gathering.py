"""Calls gather here until nothing else can run without an answer; then they leave as one wave."""

import asyncio
import math
from collections.abc import Callable
from itertools import islice

from shoal.backends.waves.lines import Line
from shoal.backends.waves.settings import WaveSettings

_QUIET_TURNS = 8  # turns of the event loop without a new call, after the time without one


class Gathering:
    """The next wave. `depart` is given its lines; `busy` says whether another wave is out."""

    def __init__(self, depart: Callable[[list[Line]], None], busy: Callable[[], bool], settings: WaveSettings) -> None:
        self._depart = depart
        self._busy = busy
        self._pace = settings.pace
        self._ceiling = self._most = settings.most_requests
        self._lines: dict[Line, None] = {}
        self._last = 0.0  # when a line came last
        self._arrivals = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._pause = self._pace.pause

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: Line) -> None:
        self._lines[line] = None
        self._arrivals += 1
        self._last = asyncio.get_running_loop().time()
        if len(self._lines) >= self._most and not self._held:
            self._leave()
        elif self._alarm is None:
            self._check()

    def leave(self, line: Line) -> bool:
        """Take a line back; False where it has left already."""
        return self._lines.pop(line, line) is None

    def take(self, most: int | None = None) -> list[Line]:
        taken = list(islice(self._lines, most))
        for line in taken:
            del self._lines[line]
        return taken

    def wave_ended(self) -> None:
        """A wave is out no more: whoever waited for company, or for the provider's room, may leave sooner."""
        self._not_before, self._pause = 0.0, self._pace.pause
        self._most = min(2 * self._most, self._ceiling)
        self._rearm()

    def no_room(self, requests: int, *, others: bool) -> None:
        """The provider has no room for a wave of so many: it waits for `others` that are out, or leaves smaller."""
        if others:
            self._not_before = math.inf
        else:
            self._most = max(1, requests // 2)
            self._not_before = asyncio.get_running_loop().time() + self._pause
            self._pause = min(2 * self._pause, self._pace.longest)
        self._rearm()

    @property
    def _held(self) -> bool:
        return asyncio.get_running_loop().time() < self._not_before

    def _rearm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._check()

    def _check(self) -> None:
        self._alarm = None
        if not self._lines:
            return
        loop = asyncio.get_running_loop()
        due = max(self._last + (self._pace.company if self._busy() else self._pace.alone), self._not_before)
        if due == math.inf:
            return  # `wave_ended` looks again
        if loop.time() < due:
            self._alarm = loop.call_at(due, self._check)
        else:
            self._quiet(self._arrivals, _QUIET_TURNS)

    def _quiet(self, seen: int, turns: int) -> None:
        """Leave after so many turns of the event loop in which nobody came."""
        loop = asyncio.get_running_loop()
        if seen != self._arrivals or self._held:
            self._check()
        elif turns:
            self._alarm = loop.call_later(0, self._quiet, seen, turns - 1)
        else:
            self._alarm = None
            self._leave()

    def _leave(self) -> None:
        if not self._lines:
            return
        self._depart(self.take(self._most))
        if self._lines and self._most < self._ceiling:
            self._not_before = math.inf  # the provider has room for no more than what has left
        if self._lines:
            self._check()
