"""How calls travel by a provider's batch API."""

from msgspec import Struct

from shoal.errors import UsageError


class Pace(Struct, frozen=True):
    """Seconds. A wave leaves when nothing was asked for `alone`, or for `company` while another wave is out, so that
    stragglers travel together. How a wave stands is asked after `poll`, then less and less often, at last every
    `longest`; `pause` is the first wait after a failure, which doubles up to `longest`. For `grace` a batch is looked
    for that was being made when its process died."""

    alone: float = 1.0
    company: float = 15.0
    poll: float = 1.0
    longest: float = 60.0
    pause: float = 2.0
    grace: float = 30.0


class WaveSettings(Struct, frozen=True):
    """tail_live: at most so many calls are sent live instead of as a wave
    window: the provider's `completion_window`
    rows: rows that may sleep at once
    most_requests, most_bytes: what one batch may hold
    tries: waves that one call may take, where it expired or failed in a way that may pass
    """

    tail_live: int = 0
    window: str = "24h"
    rows: int = 50_000
    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    tries: int = 4
    pace: Pace = Pace()

    def __post_init__(self) -> None:
        for name in ("rows", "most_requests", "most_bytes", "tries"):
            if getattr(self, name) < 1:
                raise UsageError(f"waves: {name} must be at least 1")
        if self.tail_live < 0:
            raise UsageError("waves: tail_live must be at least 0")
