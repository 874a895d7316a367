"""The seam under the scheduler: what a provider or engine must be able to do, and what it says it can."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from shoal.errors import ModelError, Unsupported
from shoal.runtime.types import Completion, Delta, Request


class Capabilities(Struct, frozen=True):
    """What a backend can do. What it cannot is done another way by the scheduler, or refused before the call.

    max_n            draws of one prompt in one wire request (1: the scheduler asks for each by itself)
    max_batch        different prompts in one wire request; conversations too where `batch_chat`
    max_in_flight    wire requests at once
    max_embed        texts in one call of `embed`
    prefill          a conversation may end on an assistant message: the reply continues it, and is what is new alone;
                     a constraint holds for what is new
    forced_logprobs  one choice with `logprobs` is scored: its own tokens, as the tokenizer cuts it after the prompt,
                     each with the log-probability it has where nothing constrains the reply; the token that ends the
                     turn is not among them
    embed            it has `embed`, see Embeds
    count_tokens     it has `count_tokens`, see CountsTokens
    """

    max_n: int = 1
    max_batch: int = 1
    max_in_flight: int = 64
    max_embed: int = 2048
    batch_chat: bool = False
    chat: bool = True
    text: bool = False
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
    prefill: bool = False
    forced_logprobs: bool = False
    embed: bool = False
    count_tokens: bool = False


class Draws(Struct, frozen=True):
    """`n` independent draws of one question.

    `request.sample` names the first; `samples` names all of them, in order, where there is more than one. `age` is
    that of the program that asks: smaller is older, and older ones go first where the engine has a queue of its own.
    """

    request: Request
    n: int = 1
    samples: tuple[tuple[int, ...], ...] = ()
    age: int = 0


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


class Embeds(Protocol):
    """What a backend with `capabilities.embed` can do as well."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, in order, for at most `max_embed` texts."""
        ...


class CountsTokens(Protocol):
    """What a backend with `capabilities.count_tokens` can do as well."""

    async def count_tokens(self, request: Request) -> int:
        """The tokens of the whole prompt as the model sees it, with its chat template."""
        ...


def continues(request: Request) -> bool:
    """Whether the request ends on an assistant message, which the reply is to continue."""
    return bool(request.messages) and request.prompt is None and request.messages[-1].role == "assistant"


def scores(request: Request) -> bool:
    """Whether the request asks how likely one given reply is: there is nothing to draw."""
    params = request.params
    return params.logprobs and len(params.choices) == 1 and not params.stop


def refuse_unsupported(request: Request, can: Capabilities, name: str) -> None:
    """Raise Unsupported, naming the feature, where the request asks for what the backend cannot do."""
    params = request.params
    wants = {
        "chat messages": bool(request.messages) and not can.chat,
        "a bare prompt": request.prompt is not None and not can.text,
        "continuing an assistant message": continues(request) and not can.prefill,
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
