"""One stream for all who run the same job in this process, and for those who come soon after."""

import atexit
import threading
from collections import Counter
from collections.abc import Callable

from shoal.batch.jobs import Job
from shoal.batch.streaming import RowStream

_lock = threading.Lock()
_streams: dict[str, RowStream] = {}
_users: Counter[str] = Counter()


def take(job: Job, opened: Callable[[], RowStream]) -> RowStream:
    """The stream of a job, opened by the first who takes it. Raises what opening it raises."""
    with _lock:
        if job.asked not in _streams:
            _streams[job.asked] = opened()
        _users[job.asked] += 1
        return _streams[job.asked]


def give_back(job: Job, seconds: float) -> None:
    """What each who took the stream does once: so many seconds later it is closed, if nobody has it then."""
    # Python's collector calls this in any thread, whatever that holds: so a thread of its own does it.
    timer = threading.Timer(seconds, _close_unused, [job.asked])
    timer.daemon = True
    timer.start()


def _close_unused(asked: str) -> None:
    with _lock:
        _users[asked] -= 1
        if _users[asked]:
            return
        del _users[asked]
        stream = _streams.pop(asked, None)
    if stream is not None:
        stream.close()


@atexit.register
def _close_all() -> None:
    """When Python ends; a thread that is at work then may bring it down."""
    with _lock:
        streams = list(_streams.values())
        _streams.clear()
    for stream in streams:
        stream.close()
