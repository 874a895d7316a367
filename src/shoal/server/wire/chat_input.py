"""Bodies of chat completion requests: what a client wrote, as the Request it means.

Pure functions. Fields that no model of ours knows go along as `extra` to servers, which may know them.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, structs

from shoal.runtime.types import Json, Message, Request, SamplingParams, sampling_params
from shoal.server.limits import refuse_routing
from shoal.server.optillm import OPTIONS
from shoal.server.refusals import Refusal, invalid, read_as
from shoal.server.settings import Preset

Fields = dict[str, Raw]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class StreamOptions(Struct):
    include_usage: bool = False


class ChatMessage(Struct):
    role: Role
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class JsonSchema(Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class OwnOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The `shoal` key of a body: a technique, its options, and whether progress is told as reasoning."""

    technique: str | None = None
    options: dict[str, Any] = {}
    progress: bool = False
    max_calls: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_seconds: Annotated[float, Meta(gt=0)] | None = None


class Common(Struct):
    """What all bodies have: read first, to know who answers."""

    model: str
    n: Annotated[int, Meta(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    shoal: OwnOptions = OwnOptions()
    optillm_approach: str | None = None

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage


class Sampling(Struct):
    """What bodies say of sampling, in the words of the API."""

    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    stop: str | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=64)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    response_format: ResponseFormat | None = None


class Chat(Sampling):
    """The body of POST /v1/chat/completions, as far as techniques and engines understand it."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)] = []
    tools: list[dict[str, Any]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


# Told to whoever bills or stores: nothing that a model of ours could do otherwise for it.
_HARMLESS = frozenset(("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"))
_READ = frozenset((*Common.__struct_fields__, *Chat.__struct_fields__, "extra_body", *OPTIONS))


_MOST_VALUES = 300_000  # [] takes three bytes on the way and sixty here


def fields_of(body: bytes) -> Fields:
    """A body's fields, each as the client wrote it. A nested `extra_body` is spread out, as the SDK would have."""
    return read_once(body)[0]


def read_once(body: bytes) -> tuple[Fields, bytes]:
    """A body's fields, and a body that says the same and nothing else, whoever reads it."""
    if body.count(b",") > _MOST_VALUES:
        raise Refusal(413, f"the body holds more than {_MOST_VALUES} values", code="too_many_values")
    try:
        str(body, "utf-8")  # fields that are passed on unread must be JSON, too
    except UnicodeDecodeError as error:
        raise invalid(f"The body is not JSON: {error.reason} at byte {error.start}") from None
    fields: Fields = read_as(body, dict[str, Raw])
    nested = bytes(fields.get("extra_body", b""))
    if nested.startswith(b"{"):
        del fields["extra_body"]
        fields |= read_as(nested, dict[str, Raw])
        if "extra_body" in fields:
            raise invalid("extra_body: there is another one in it", "extra_body")
        body = msgspec.json.encode(fields)
    refuse_routing(fields)
    return fields, body


_OWN = frozenset(("shoal", "optillm_approach", *OPTIONS))


def without_own(fields: Fields) -> Fields:
    """The fields that are meant for the model's server."""
    return {name: value for name, value in fields.items() if name not in _OWN}


def technique_options(fields: Fields, own: OwnOptions, known: frozenset[str]) -> dict[str, Any]:
    """Options that a body gives to techniques: optillm's, those in `shoal`, and top-level ones that `known` names."""
    options = {ours: msgspec.json.decode(fields[theirs]) for theirs, ours in OPTIONS.items() if theirs in fields}
    options |= {name: msgspec.json.decode(fields[name]) for name in fields if name in known and name not in _READ}
    return options | own.options


def chat_request(
    fields: Fields, body: bytes, preset: Preset | None, *, to_server: bool, known: frozenset[str]
) -> Request:
    """The Request that a chat body means. `to_server`: whether unknown fields may be passed on."""
    chat: Chat = read_as(body, Chat)
    if not chat.messages:
        raise invalid("messages: at least one message is needed", "messages")
    for i, message in enumerate(chat.messages):
        if message.content is None and message.role != "assistant":
            raise invalid(f"messages[{i}].content is missing", f"messages[{i}].content")
    extra = extra_of(fields, _READ | known, to_server=to_server)
    if not to_server and not chat.tools:
        extra.pop("parallel_tool_calls", None)
    if extra.get("best_of", 1) != 1:  # answers that no budget would know of
        raise invalid("best_of: use a technique instead, such as best_of_n(n=4)@MODEL", "best_of")
    if to_server and chat.response_format is not None and chat.response_format.type == "json_object":
        extra["response_format"] = {"type": "json_object"}
        chat.response_format = None
    params = params_of(chat, preset, extra)
    if chat.logprobs:
        params = structs.replace(params, logprobs=True, top_logprobs=chat.top_logprobs or 0)
    return Request(
        messages=with_system(tuple(map(_message, chat.messages)), preset),
        params=params,
        tools=tuple(Json.in_order(tool) for tool in chat.tools or ()),
    )


def with_preset(fields: Fields, preset: Preset | None) -> Fields:
    """A body that passes through, with what the preset says where the client said nothing."""
    if preset is None:
        return fields
    for name in ("temperature", "top_p", "max_tokens", "stop", "seed"):
        value = getattr(preset, name)
        if value not in (None, ()) and name not in fields:
            fields = {**fields, name: Raw(msgspec.json.encode(value))}
    messages: list[Raw] = msgspec.json.decode(fields.get("messages", b"[]"), type=list[Raw])
    if preset.system is None or any(read_as(bytes(turn), _Role).role in ("system", "developer") for turn in messages):
        return fields
    system = Raw(msgspec.json.encode({"role": "system", "content": preset.system}))
    return {**fields, "messages": Raw(msgspec.json.encode([system, *messages]))}


class _Role(Struct):
    role: str = ""


def _message(message: ChatMessage) -> Message:
    return Message(
        "system" if message.role == "developer" else message.role,
        Json.in_order(message.content) if isinstance(message.content, list) else message.content,
        message.name,
        message.tool_call_id,
        tuple(map(Json.in_order, message.tool_calls or ())),
    )


def with_system(messages: tuple[Message, ...], preset: Preset | None) -> tuple[Message, ...]:
    """The preset's system message, where the client wrote none."""
    if preset is None or preset.system is None or any(message.role == "system" for message in messages):
        return messages
    return (Message("system", preset.system), *messages)


def params_of(sampling: Sampling, preset: Preset | None, extra: dict[str, Any] | None) -> SamplingParams:
    """How to sample: the client's word, else the preset's."""
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty")
    given: dict[str, Any] = {name: getattr(sampling, name) for name in names}
    given["max_tokens"] = sampling.max_completion_tokens or sampling.max_tokens
    stop = sampling.stop or ()
    given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if given["top_k"] in (0, -1):  # how some servers' clients say "all"
        given["top_k"] = None
    for name in ("temperature", "top_p", "max_tokens", "stop", "seed") if preset is not None else ():
        if given[name] in (None, ()):
            given[name] = getattr(preset, name)
    return sampling_params(**given, json_schema=_schema(sampling.response_format), extra=extra or None)


def _schema(form: ResponseFormat | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None or form.json_schema.schema is None:
        raise invalid("response_format.json_schema.schema is missing", "response_format.json_schema.schema")
    return form.json_schema.schema


def extra_of(fields: Fields, read: frozenset[str], *, to_server: bool) -> dict[str, Any]:
    """The fields that nobody here has read, for a model that may know them."""
    others = fields.keys() - read
    if not to_server:
        others -= _HARMLESS
    return {name: msgspec.json.decode(fields[name]) for name in sorted(others) if bytes(fields[name]) != b"null"}
