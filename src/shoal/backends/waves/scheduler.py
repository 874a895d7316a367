"""The scheduler over waves: a draw may be away for a day, and is let go when the run is told to stop."""

from shoal.backends.openai import OpenAIBackend
from shoal.backends.waves.backend import WaveBackend
from shoal.backends.waves.settings import WaveSettings
from shoal.backends.waves.state import WaveStore
from shoal.errors import ShoalError
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.scheduler import Scheduler

# Waves try again by themselves, and a completion window is the provider's.
_NO_DEADLINE = RetryPolicy(attempts=1, deadline=3.2e8)


class WaveScheduler(Scheduler):
    """A Model over a provider's batch API; `live` is the scheduler of what is asked at once."""

    backend: WaveBackend

    def __init__(self, backend: OpenAIBackend, live: Scheduler, store: WaveStore, settings: WaveSettings) -> None:
        self.live = live
        self.window = settings.rows
        super().__init__(WaveBackend(backend, live, store, settings), retry=_NO_DEADLINE)

    def refuse_waiting(self, error: ShoalError) -> None:
        """Raise `error` in the callers of all draws, also of those whose wave is out."""
        super().refuse_waiting(error)
        self.live.refuse_waiting(error)
        self.backend.refuse(error)
