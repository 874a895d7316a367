"""Models run by vLLM's engine on this machine, in a process of its own."""

from shoal.backends.vllm.backend import VllmBackend

__all__ = ["VllmBackend"]
