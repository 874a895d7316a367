"""From what a built-in is given to the Request that it asks."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from msgspec import structs

from shoal.errors import UsageError, did_you_mean
from shoal.prompting.messages import parse_messages
from shoal.runtime.backend import Capabilities
from shoal.runtime.model import Applied, Model
from shoal.runtime.types import Message, Request, SamplingParams, sampling_params, turns

Prompt = str | Sequence[Message | Mapping[str, Any]]


class Sampling(TypedDict, total=False):
    """How to sample, and what the text must be: the fields of SamplingParams as plain Python values.

    `bare` continues a text as it stands instead of putting it as the user's turn: for models that are no chat models,
    and where the text begins the answer.
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str]
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logprobs: bool
    top_logprobs: int
    json_schema: Mapping[str, Any] | None
    regex: str | None
    choices: Sequence[str]
    grammar: str | None
    extra: Mapping[str, Any] | None
    bare: bool | None


_KNOWN = frozenset(SamplingParams.__struct_fields__)


def capabilities(model: Model) -> Capabilities:
    """What the backend of a base model can do; of a technique on one, whether its answer can be held to a schema."""
    if isinstance(model, Applied):
        return Capabilities(json_schema=capabilities(model.model).json_schema)
    backend = getattr(model, "backend", None)
    found = getattr(backend, "capabilities", None)
    return found if isinstance(found, Capabilities) else Capabilities()


def request_for(prompt: Prompt, model: Model, params: Mapping[str, Any]) -> Request:
    """A conversation as it is; a text as the user's turn or, where it is `bare` or the model has no chat, continued."""
    sampling = params_of(params)
    if not isinstance(prompt, str):
        return Request(messages=messages_of(prompt), params=sampling)
    if params.get("bare") or not capabilities(model).chat:
        return Request(prompt=prompt, params=sampling)
    return Request(messages=turns(prompt), params=sampling)


def chat_request(prompt: Prompt, system: str | None, params: Mapping[str, Any]) -> Request:
    """A conversation; a text is the user's turn."""
    messages = turns(prompt) if isinstance(prompt, str) else messages_of(prompt)
    before = () if system is None else (Message("system", system),)
    return Request(messages=before + messages, params=params_of(params))


def messages_of(prompt: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    if isinstance(prompt, Sequence) and all(isinstance(message, Message) for message in prompt) and prompt:
        return tuple(prompt)  # type: ignore[arg-type]
    if not isinstance(prompt, Sequence):
        raise UsageError(f"a prompt is a text or a list of messages, not {type(prompt).__name__}")
    return parse_messages([structs.asdict(m) if isinstance(m, Message) else m for m in prompt])


def params_of(params: Mapping[str, Any]) -> SamplingParams:
    """SamplingParams; what is None is not given. UsageError names what no model takes."""
    for name in params:
        if name not in _KNOWN and name != "bare":
            raise UsageError(f"no sampling parameter {name!r}; {did_you_mean(name, _KNOWN)}")
    return sampling_params(**{name: value for name, value in params.items() if value is not None and name != "bare"})
