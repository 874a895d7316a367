"""Built-ins that measure text."""

from collections.abc import Sequence

from shoal.errors import Unsupported
from shoal.prompting.llm.asking import Prompt, request_for
from shoal.runtime import registry
from shoal.runtime.builtin import builtin


@builtin
async def embed(texts: str | Sequence[str]) -> list[list[float]]:
    """A vector for each text. Unsupported where the model's backend has none."""
    model = registry.current().model
    ask = getattr(model, "embed", None)
    if ask is None:
        raise Unsupported(f"{model!r} has no embeddings")
    return await ask([texts] if isinstance(texts, str) else list(texts))  # type: ignore[no-any-return]


@builtin
async def count_tokens(prompt: Prompt) -> int:
    """How many tokens the model sees for a prompt, its chat template included. Unsupported where none can tell."""
    model = registry.current().model
    count = getattr(model, "count_tokens", None)
    if count is None:
        raise Unsupported(f"{model!r} cannot count tokens")
    return await count(request_for(prompt, model, {}))  # type: ignore[no-any-return]
