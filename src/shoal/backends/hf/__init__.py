"""`transformers/MODEL`: models of Hugging Face transformers in this process."""

from shoal.backends.hf.backend import TransformersBackend

__all__ = ["TransformersBackend"]
