"""The seam under the scheduler: what a provider or engine must be able to do, and what it says it can."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from shoal.errors import ModelError, Unsupported
from shoal.runtime.types import Completion, Delta, Request


class Capabilities(Struct, frozen=True):
    """What a backend can do. What it cannot is done another way by the scheduler, or refused before the call.

    max_n         draws of one prompt in one wire request (1: the scheduler asks for each by itself)
    max_batch     different prompts in one wire request; conversations too where `batch_chat`
    max_in_flight wire requests at once
    continues     a program's text is continued as a bare prompt, not asked as the user's turn
    prefill       a last message of the assistant's is continued
    forced_logprobs  where one choice is all there is, log-probabilities are the model's own for it
    """

    max_n: int = 1
    max_batch: int = 1
    max_in_flight: int = 64
    batch_chat: bool = False
    chat: bool = True
    text: bool = False
    continues: bool = False
    prefill: bool = False
    forced_logprobs: bool = False
    stream: bool = False
    seed: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    json_schema: bool = False
    regex: bool = False
    choices: bool = False
    grammar: bool = False
    tools: bool = False
    images: bool = False


class Draws(Struct, frozen=True):
    """`n` independent draws of one question.

    `request.sample` names the first; `samples` names all of them, in order, where there is more than one.
    """

    request: Request
    n: int = 1
    samples: tuple[tuple[int, ...], ...] = ()


# One entry per Draws: its completions (fewer than n where the server gave fewer), or the error that befell it alone.
Outcome = list[Completion] | ModelError


class Backend(Protocol):
    """A provider or an in-process engine.

    `identity` goes into every cache key: endpoint, model and whatever else makes two answers not interchangeable;
    never an API key.
    `name` is the model's name for people and records.
    """

    identity: str
    name: str
    capabilities: Capabilities

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        """Answer at most `max_batch` questions with at most `max_n` draws each; cancelling frees wire or engine."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        """Deltas as they come, then the whole Completion, last. Only where `capabilities.stream`."""
        ...

    async def aclose(self) -> None: ...


def refuse_unsupported(request: Request, can: Capabilities, name: str) -> None:
    """Raise Unsupported, naming the feature, where the request asks for what the backend cannot do."""
    params = request.params
    wants = {
        "chat messages": bool(request.messages) and not can.chat,
        "a bare prompt": request.prompt is not None and not can.text,
        "tools": bool(request.tools) and not can.tools,
        "log-probabilities": params.logprobs and not can.logprobs,
        f"{params.top_logprobs} top_logprobs (at most {can.top_logprobs})": params.top_logprobs > can.top_logprobs,
        "a json_schema": params.json_schema is not None and not can.json_schema,
        "a regex": params.regex is not None and not can.regex,
        "choices": bool(params.choices) and not can.choices,
        "a grammar": params.grammar is not None and not can.grammar,
    }
    for feature, missing in wants.items():
        if missing:
            raise Unsupported(f"{name} cannot do {feature}")
