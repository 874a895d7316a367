"""Where a base model runs: here, or somewhere that has to be asked."""

from shoal.backends import BaseModel
from shoal.backends.embedded import EmbeddedBackend
from shoal.backends.hf import TransformersBackend
from shoal.backends.llama import LlamaBackend
from shoal.backends.scripted import ScriptedBackend
from shoal.backends.vllm import VllmBackend


def in_process(base: BaseModel) -> bool:
    """Whether a model runs on this machine, for this process alone: it costs no money."""
    return counts_at_once(base) or isinstance(base.backend, VllmBackend | TransformersBackend)


def counts_at_once(base: BaseModel) -> bool:
    """Whether a model's tokenizer is at hand: it counts without an engine that takes minutes to load."""
    return isinstance(base.backend, EmbeddedBackend | LlamaBackend | ScriptedBackend)
