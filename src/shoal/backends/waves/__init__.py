"""Calls by a provider's batch API, at half the price: what is ready travels together, and programs sleep meanwhile."""

from shoal.backends.waves.scheduler import WaveScheduler
from shoal.backends.waves.settings import Pace, WaveSettings
from shoal.backends.waves.state import FILE, OPEN, Wave, WaveStore

__all__ = ["FILE", "OPEN", "Pace", "Wave", "WaveScheduler", "WaveSettings", "WaveStore"]
