"""What a model is asked and what it answers: small frozen values, hashable, encoded by msgspec."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct, structs

from shoal.errors import UsageError

_encode = msgspec.json.Encoder(order="sorted").encode


class Json(Struct, frozen=True, cache_hash=True):
    """Any JSON value as its canonical text: hashable, comparable and sent as it is."""

    text: str

    @classmethod
    def of(cls, value: Any) -> "Json":
        """Freeze a JSON-like value; keys are sorted so that equal values are equal."""
        return value if isinstance(value, Json) else cls(_encode(value).decode())

    @classmethod
    def in_order(cls, value: Any) -> "Json":
        """Freeze a JSON-like value with its keys as they stand: a schema's properties are written in its order."""
        return value if isinstance(value, Json) else cls(msgspec.json.encode(value).decode())

    def value(self) -> Any:
        return msgspec.json.decode(self.text)


class Message(Struct, frozen=True, cache_hash=True, omit_defaults=True):
    """One turn of a conversation.

    `content` is text, or `Json` holding a list of content parts (images and the like), which passes through untouched.
    """

    role: str
    content: str | Json | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: tuple[Json, ...] = ()

    @property
    def text(self) -> str:
        """The readable text of the message, whatever form its content has."""
        if isinstance(self.content, str):
            return self.content
        if self.content is None:
            return ""
        parts = self.content.value()
        return "\n".join(p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))


class SamplingParams(Struct, frozen=True, cache_hash=True, omit_defaults=True):
    """How to sample. None means the backend's own default.

    At most one of `json_schema`, `regex`, `choices` and `grammar` constrains the text. `logprobs` asks for the
    log-probability of each token, `top_logprobs` for that many alternatives as well. `extra` holds further wire
    fields as a JSON object. Raises UsageError for a value that no model can sample with.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    json_schema: Json | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()
    grammar: str | None = None
    extra: Json | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature >= 0:
            raise UsageError(f"temperature must be at least 0, not {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p must be between 0 and 1, not {self.min_p}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.json_schema or self.regex is not None or self.choices or self.grammar is not None:
            self._check_constraint()

    def _check_constraint(self) -> None:
        named = {"json_schema": self.json_schema, "regex": self.regex, "choices": self.choices, "grammar": self.grammar}
        given = [name for name, value in named.items() if value]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} cannot constrain one text together; give one")


class Request(Struct, frozen=True, cache_hash=True, omit_defaults=True):
    """One draw asked of a model: a conversation, or a bare `prompt` to continue, and how to sample.

    `sample` names the draw. It is part of equality and of the cache key and is never sent: equal request and equal path
    are the same draw, and different paths are independent draws of the same question. `realm` keeps those apart who
    must share no draws, and is never sent either.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    params: SamplingParams = SamplingParams()
    tools: tuple[Json, ...] = ()
    sample: tuple[int, ...] = ()
    realm: str = ""

    @classmethod
    def of(cls, text: str, *, system: str | None = None, **params: Any) -> "Request":
        """A one-turn conversation: `Request.of("Hi", system="Be brief.", temperature=0.7)`."""
        return cls(messages=turns(text, system), params=sampling_params(**params))

    def draw(self, *path: int) -> "Request":
        """The same question, with `path` appended to the draw's name."""
        return structs.replace(self, sample=self.sample + path)

    def question(self) -> "Request":
        """The same request without its draw: what equal draws share."""
        return structs.replace(self, sample=()) if self.sample else self

    def with_params(self, **changes: Any) -> "Request":
        return structs.replace(self, params=structs.replace(self.params, **changes))

    @property
    def text(self) -> str:
        """The last user turn (or the bare prompt): what is being asked."""
        if self.prompt is not None:
            return self.prompt
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")


def turns(text: str, system: str | None = None) -> tuple[Message, ...]:
    """A conversation of one user turn, after a system message where there is one."""
    user = Message("user", text)
    return (user,) if system is None else (Message("system", system), user)


def sampling_params(**params: Any) -> SamplingParams:
    """SamplingParams from plain Python values: lists become tuples, schemas and extras become Json.

    A schema keeps the order of its keys, which is the order in which a model writes the properties.
    """
    for name in ("stop", "choices"):
        if name in params:
            value = params[name]
            params[name] = (value,) if isinstance(value, str) else tuple(value)
    if params.get("json_schema") is not None:
        params["json_schema"] = Json.in_order(params["json_schema"])
    if params.get("extra") is not None:
        params["extra"] = Json.of(params["extra"])
    return SamplingParams(**params)


class TokenLogprob(Struct, frozen=True, omit_defaults=True):
    """A generated token, its natural-log probability and, where asked for, the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Usage(Struct, frozen=True, omit_defaults=True):
    """What calls cost. Sums with `+`.

    `calls` are draws paid for, `cached_calls` draws that came for nothing (from the cache, or shared with an equal
    draw); tokens are those of the paid draws only, `cached_tokens` those the cached draws would have cost, of which
    `cached_prompt_tokens` are their prompts'. `estimated` says that a server did not report its usage. Of the tokens,
    `batch_prompt_tokens` and `batch_completion_tokens` were asked for by a provider's batch API, at its price.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    cached_calls: int = 0
    cached_tokens: int = 0
    estimated: bool = False
    cached_prompt_tokens: int = 0
    batch_prompt_tokens: int = 0
    batch_completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.calls + other.calls,
            self.cached_calls + other.cached_calls,
            self.cached_tokens + other.cached_tokens,
            self.estimated or other.estimated,
            self.cached_prompt_tokens + other.cached_prompt_tokens,
            self.batch_prompt_tokens + other.batch_prompt_tokens,
            self.batch_completion_tokens + other.batch_completion_tokens,
        )

    def by_batch(self) -> "Usage":
        """The same draws, asked for by a provider's batch API."""
        return structs.replace(
            self, batch_prompt_tokens=self.prompt_tokens, batch_completion_tokens=self.completion_tokens
        )

    def as_cached(self) -> "Usage":
        """The same draws had for nothing."""
        return Usage(
            cached_calls=self.calls + self.cached_calls,
            cached_tokens=self.total_tokens + self.cached_tokens,
            estimated=self.estimated,
            cached_prompt_tokens=self.prompt_tokens + self.cached_prompt_tokens,
        )


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of many usages."""
    sum_ = Usage()
    for usage in usages:
        sum_ = sum_ + usage
    return sum_


class Completion(Struct, frozen=True, omit_defaults=True):
    """One whole answer.

    `answer` is the short answer where a technique determined one, else None, and `confidence` (0 to 1) how sure it is
    of that, where it can say. `finish_reason` is the server's word: "stop", "length", "tool_calls", "content_filter".
    For a technique, `usage` sums every call it made, and `alternatives` are further whole answers where it gives
    several, best first, each with what it cost, which is in `usage` too. `id` is the server's name for the reply it
    came in, which draws of one wire request share.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""
    answer: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[Json, ...] = ()
    reasoning: str | None = None
    id: str | None = None
    alternatives: "tuple[Completion, ...]" = ()
    confidence: float | None = None

    def cached(self) -> "Completion":
        """The same answer, had for nothing."""
        return structs.replace(self, usage=self.usage.as_cached())


class Delta(Struct, frozen=True):
    """A piece of an answer on its way."""

    text: str = ""
    reasoning: str = ""


__all__ = [
    "Completion",
    "Delta",
    "Json",
    "Message",
    "Request",
    "SamplingParams",
    "TokenLogprob",
    "Usage",
    "sampling_params",
    "total",
]
