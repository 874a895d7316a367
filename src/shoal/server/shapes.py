"""What replies look like, for the OpenAPI document. A test holds real replies against it."""

from typing import Any, Literal

from msgspec import Struct

from shoal.server.batches.objects import Batch, File
from shoal.server.wire.chat_output import Told

FinishReason = str | None  # "stop", "length", "tool_calls", "content_filter", or what else a model's server says


class Error(Struct):
    """What went wrong. `param` names the field of the request, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Struct):
    error: Error


class AnthropicError(Struct):
    type: str
    message: str


class AnthropicErrorReply(Struct):
    type: Literal["error"]
    error: AnthropicError


class InputTokens(Struct):
    input_tokens: int


class Upload(Struct):
    """The form in which a file is sent."""

    file: str
    purpose: Literal["batch"]


class Files(Struct):
    data: list[File]
    has_more: bool
    object: Literal["list"] = "list"


class Batches(Struct):
    data: list[Batch]
    has_more: bool
    object: Literal["list"] = "list"


class Health(Struct):
    status: Literal["ok"]


class Model(Struct):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Struct):
    object: Literal["list"]
    data: list[Model]


class CompletionTokens(Struct):
    """`reasoning_tokens` were generated and are not in the answer: thoughts, other candidates, judgements."""

    reasoning_tokens: int


class UsageReply(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokens | None = None


class ReplyMessage(Struct):
    role: Literal["assistant"]
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(Struct):
    index: int
    message: ReplyMessage
    finish_reason: FinishReason
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Struct):
    """`shoal` says how a technique came to its answer; it is not in replies that pass through."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReply | None = None
    shoal: Told | None = None
