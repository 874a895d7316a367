"""Scripted models for tests: what they say, what they were asked, and in how many waves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shoal.backends import BaseModel
from shoal.backends.scripted import Script, ScriptedBackend
from shoal.runtime.model import Model, apply
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.types import Completion, Request

T = TypeVar("T")
AT_ONCE = RetryPolicy(base=0.0)  # retries without waiting


def run(program: Awaitable[T]) -> T:
    async def main() -> T:
        return await program

    return asyncio.run(main())


def scripted(script: Script, **options: Any) -> tuple[BaseModel, ScriptedBackend]:
    """A model that answers from `script`, and its backend, which remembers."""
    backend = ScriptedBackend(script, **options)
    return BaseModel(backend, retry=AT_ONCE), backend


def in_turn(*texts: str) -> Script:
    """Answers by the last number of the draw's path, over and over."""
    return lambda request: texts[(request.sample or (0,))[-1] % len(texts)]


def answer_of(
    technique: Callable[..., Awaitable[Completion]], script: Script, question: Request | str = "Q?", **options: Any
) -> tuple[Completion, ScriptedBackend]:
    """A technique run in waves on a scripted model: `len(backend.batches)` is its critical path in calls."""
    model, backend = scripted(script, waves=True)
    request = Request.of(question) if isinstance(question, str) else question
    applied: Model = apply(technique, model, **options)
    return run(applied(request)), backend
