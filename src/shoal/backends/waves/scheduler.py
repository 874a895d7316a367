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

    def __init__(self, backend: OpenAIBackend, live: Scheduler, store: WaveStore, settings: WaveSettings) -> None:
        self.live = live
        asked = WaveBackend(backend, live, store, settings)
        self.waves = asked.waves
        super().__init__(asked, retry=_NO_DEADLINE)

    def standing(self) -> str:
        """In a few words: which waves are out, how far they are, and what waits for the next."""
        waves = list(self.waves.out.values())
        done = sum(wave.done + wave.failed for wave in waves)
        names = f"wave {waves[0].number} {waves[0].status or waves[0].state}" if len(waves) == 1 else ""
        said = [f"{names or f'{len(waves)} waves'} {done} of {sum(w.requests for w in waves)}"] if waves else []
        if self.waves.gathering:
            said.append(f"{len(self.waves.gathering)} gathering")
        said += [wave.note for wave in waves if wave.note][:1]
        return " · ".join(said) or "no wave out"

    def refuse_waiting(self, error: ShoalError) -> None:
        """Raise `error` in the callers of all draws, also of those whose wave is out."""
        super().refuse_waiting(error)
        self.live.refuse_waiting(error)
        self.waves.refuse(error)
