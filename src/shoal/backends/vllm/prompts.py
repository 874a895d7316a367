"""A request's prompt as tokens, by the model's own tokenizer and chat template; imported in vLLM's process alone."""

from typing import Any

from shoal.backends.chat_template import written
from shoal.backends.tools import tools_of
from shoal.errors import BadRequest
from shoal.runtime.types import Request


def tokens(tokenizer: Any, request: Request) -> list[int]:
    """The whole prompt. A last turn of the assistant is the beginning of its reply."""
    if request.prompt is not None:
        tools_of(request)  # which have no place there
        return list(tokenizer.encode(request.prompt))
    return list(tokenizer.encode(written(tokenizer, request), add_special_tokens=False))


def choice_tokens(tokenizer: Any, request: Request) -> list[int]:
    """The only choice as the tokenizer cuts it after the prompt."""
    (choice,) = request.params.choices
    ids = list(tokenizer.encode(choice, add_special_tokens=False))
    if tokenizer.decode(ids, skip_special_tokens=True).lstrip() != choice.lstrip():
        raise BadRequest(f"the choice {choice!r} is not what its tokens spell")
    return ids
