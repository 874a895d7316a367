"""Where a base model runs: here, or somewhere that has to be asked."""

from shoal.backends import BaseModel
from shoal.backends.embedded import EmbeddedBackend
from shoal.backends.llama import LlamaBackend
from shoal.backends.scripted import ScriptedBackend


def in_process(base: BaseModel) -> bool:
    """Whether a model runs on this machine, for this process alone: it costs no money, and its tokenizer is at hand."""
    return isinstance(base.backend, EmbeddedBackend | LlamaBackend | ScriptedBackend)
