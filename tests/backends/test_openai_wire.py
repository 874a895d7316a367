"""Requests and replies as bytes: what is sent, what counts as an answer, what an error means, what a draw cost."""

import json
from contextlib import suppress
from email.utils import formatdate
from itertools import pairwise
from time import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.backends.openai_errors import error_of, retry_after
from shoal.backends.openai_stream import StreamedReply
from shoal.backends.openai_usage import divide
from shoal.backends.openai_wire import (
    Dialect,
    Server,
    from_wire_chat,
    from_wire_text,
    to_wire_chat,
    to_wire_text,
    wire_seed,
)
from shoal.backends.sse import SseParser
from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextLengthExceeded,
    MalformedResponse,
    ModelError,
    QuotaExceeded,
    RateLimited,
    ServerError,
)
from shoal.runtime.backend import Draws
from shoal.runtime.types import Completion, Delta, Json, Message, Request, TokenLogprob, Usage, total

KEY = "sk-canary-1234567890"
SERVER = Server("here", "m", KEY)
ASK = Request.of("Hi")


def sent(request: Request = ASK, n: int = 1, **options: Any) -> dict[str, Any]:
    return json.loads(to_wire_chat("m", Draws(request, n), **options))  # type: ignore[no-any-return]


def choice(content: Any = "yes", index: int | None = 0, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}


def answered(*choices: dict[str, Any], n: int | None = None, **fields: Any) -> list[Completion]:
    body = {
        "model": "served",
        "choices": list(choices),
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
        **fields,
    }
    (outcome,) = from_wire_chat(json.dumps(body).encode(), Draws(ASK, n or len(choices)), SERVER)
    assert isinstance(outcome, list)
    return outcome


# Requests


def test_only_what_was_set_is_sent() -> None:
    assert sent() == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    params: dict[str, Any] = {
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "max_tokens": 7,
        "stop": ["\n"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 3,
    }
    body = sent(Request.of("Hi", **params), n=4)
    assert {name: body[name] for name in params} == params
    assert body["n"] == 4


def test_max_tokens_has_two_spellings() -> None:
    body = sent(Request.of("Hi", max_tokens=7), dialect=Dialect("max_completion_tokens"))
    assert (body["max_completion_tokens"], body.get("max_tokens")) == (7, None)


def test_conversations_tools_and_images_pass_through() -> None:
    call = Json.of({"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}})
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    tool = Json.of({"type": "function", "function": {"name": "add", "parameters": {}}})
    turns = (
        Message("user", Json.of(parts), name="ann"),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "3", tool_call_id="c1"),
    )
    body = sent(Request(turns, tools=(tool,)))
    assert body["messages"] == [
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call.value()]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]
    assert body["tools"] == [tool.value()]


def test_extra_fields_are_sent_and_never_change_the_question() -> None:
    extra = {"repetition_penalty": 1.1, "temperature": 1, "model": "x", "messages": [], "prompt": "x", "n": 9}
    body = sent(Request.of("Hi", temperature=0.5, extra={**extra, "stream": True}))
    assert body == {**sent(), "repetition_penalty": 1.1, "temperature": 1}


@pytest.mark.parametrize(
    ("params", "constraints", "fields"),
    [
        ({"regex": "a+"}, "vllm", {"structured_outputs": {"regex": "a+"}}),
        ({"choices": ["a", "b"]}, "vllm", {"structured_outputs": {"choice": ["a", "b"]}}),
        ({"grammar": "root ::= x"}, "vllm", {"structured_outputs": {"grammar": "root ::= x"}}),
        ({"grammar": "root ::= x"}, "llamacpp", {"grammar": "root ::= x"}),
        ({"choices": ["a", '"\\\n']}, "llamacpp", {"grammar": 'root ::= "a" | "\\"\\\\\\n"'}),
        ({"choices": ["a"]}, None, {}),
    ],
)
def test_constraints_are_spelled_as_the_server_does(
    params: dict[str, Any], constraints: str | None, fields: dict[str, Any]
) -> None:
    assert sent(Request.of("Hi", **params), dialect=Dialect(constraints=constraints)) == {**sent(), **fields}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "required": [], "additionalProperties": False}, True),
        (
            {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False},
            True,
        ),
        (
            {"type": "object", "properties": {"a": {"type": "null"}}, "required": [], "additionalProperties": False},
            False,
        ),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, False),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "additionalProperties": False}}}, True),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"a": {"type": "string"}}}}}, False),
        ({"type": "object"}, False),
        ({"type": "array", "items": {"type": "integer"}}, False),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, False),
    ],
)
def test_a_json_schema_is_a_response_format_strict_where_it_fits(schema: dict[str, Any], strict: bool) -> None:
    said = sent(Request.of("Hi", json_schema=schema))["response_format"]
    assert said == {"type": "json_schema", "json_schema": {"name": "answer", "strict": strict, "schema": schema}}
    said = sent(Request.of("Hi", json_schema=schema), dialect=Dialect(constraints="vllm"))["response_format"]
    assert said["json_schema"]["strict"] is True


def test_a_reply_that_has_begun_is_spelled_as_the_server_does() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Well"))
    vllm, llamacpp = Dialect(constraints="vllm"), Dialect(constraints="llamacpp")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    fields = {"add_generation_prompt": False, "continue_final_message": True}
    assert sent(Request(turns), dialect=vllm) == {"model": "m", "messages": messages, **fields}
    assert sent(Request(turns), dialect=llamacpp) == {"model": "m", "messages": messages}
    unbegun = Request((turns[0], Message("assistant", "")))
    assert sent(unbegun, dialect=vllm) == sent(unbegun, dialect=llamacpp) == sent()


def test_logprobs_are_asked_in_each_api_s_way() -> None:
    request = Request.of("Hi", logprobs=True, top_logprobs=3)
    assert (sent(request)["logprobs"], sent(request)["top_logprobs"]) == (True, 3)
    text = json.loads(to_wire_text("m", [Draws(Request(prompt="Hi", params=request.params))]))
    assert (text["logprobs"], "top_logprobs" in text) == (3, False)


def test_prompts_go_together_and_a_lone_one_by_itself() -> None:
    batch = [Draws(Request(prompt=text), 2) for text in "ab"]
    assert json.loads(to_wire_text("m", batch)) == {"model": "m", "prompt": ["a", "b"], "n": 2}
    assert json.loads(to_wire_text("m", batch[:1])) == {"model": "m", "prompt": "a", "n": 2}


def test_seeds_differ_by_draw_and_are_always_the_same() -> None:
    request = Request.of("Hi", seed=5)
    assert "seed" not in sent(ASK.draw(1))
    assert sent(request)["seed"] == 5
    seeds = [wire_seed(request.draw(*path)) for path in [(), (0,), (1,), (0, 1), (1, 0)]]
    assert len(set(seeds)) == 5
    assert wire_seed(request.draw(1)) == wire_seed(request.draw(1)) == 241853408
    assert all(seed is not None and 0 <= seed < 1 << 31 for seed in seeds)


def test_a_stream_asks_for_its_usage() -> None:
    body = sent(stream=True)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


# Replies


def test_a_whole_reply() -> None:
    assert answered(choice()) == [Completion("yes", "stop", Usage(9, 4, 1), "served")]
    many = answered(choice("b", 1), choice("a", 0), choice("", 2, "length"))
    assert [(c.text, c.finish_reason) for c in many] == [("a", "stop"), ("b", "stop"), ("", "length")]
    assert total(c.usage for c in many) == Usage(9, 4, 3)
    assert [c.text for c in answered(choice("a"), choice("c", 2), n=4)] == ["a", "c"]
    assert [c.text for c in answered(choice(index=None))] == ["yes"]
    assert answered(choice(), model=None)[0].model == "m"
    assert [answered(choice(), id=id_)[0].id for id_ in ("cmpl-1", 7, None, {})] == ["cmpl-1", "7", None, None]


def test_what_a_choice_can_hold() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{oops"}}
    assert answered(choice(None, finish="tool_calls", tool_calls=[call]))[0].tool_calls == (Json.of(call),)
    assert answered(choice(None, refusal="I will not."))[0].text == "I will not."
    assert answered(choice("a", reasoning_content="hm"))[0].reasoning == "hm"
    assert answered(choice("a", reasoning="hm"))[0].reasoning == "hm"
    assert answered(choice([{"type": "thinking"}, {"type": "text", "text": "a"}]))[0].text == "a"
    assert answered(choice(None, finish="length", reasoning="hm"))[0] == Completion(
        "", "length", Usage(9, 4, 1), "served", reasoning="hm"
    )
    assert answered(choice("a", finish="eos"))[0].finish_reason == "eos"


def test_logprobs_of_both_apis() -> None:
    chat = {"content": [{"token": "y", "logprob": -0.5, "top_logprobs": [{"token": "n", "logprob": -1}]}]}
    tokens = (TokenLogprob("y", -0.5, (("n", -1.0),)),)
    assert answered({**choice("y"), "logprobs": chat})[0].logprobs == tokens
    text = {"tokens": ["P", "y"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"n": -1}]}
    reply = {"choices": [{"index": 0, "finish_reason": "stop", "text": "y", "logprobs": text}]}
    (outcome,) = from_wire_text(json.dumps(reply).encode(), [Draws(Request(prompt="P"))], SERVER)
    assert isinstance(outcome, list)
    assert outcome[0].logprobs == tokens
    assert answered({**choice("y"), "logprobs": None})[0].logprobs is None
    with pytest.raises(MalformedResponse, match="logprobs"):
        answered({**choice("y"), "logprobs": {"content": 3}})


GOOD = json.dumps({"choices": [choice()], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
NOT_WHOLE = {
    "empty": b"",
    "html": b"<html>",
    "null": b"null",
    "a list": b"[]",
    "truncated": GOOD[:-9],
    "trailing": GOOD + b"}",
    "no choices": b"{}",
    "null choices": b'{"choices":null}',
    "empty choices": b'{"choices":[]}',
    "null choice": b'{"choices":[null]}',
    "NaN": GOOD.replace(b": 1}", b": NaN}"),
    "infinity": GOOD.replace(b": 1}", b": Infinity}"),
    "invalid UTF-8": GOOD.replace(b"yes", b"\xff\xfe"),
    "lone surrogate": GOOD.replace(b"yes", rb"\ud800"),
    "deep": b"[" * 100_000,
    "deep choices": b'{"choices":' + b"[" * 100_000,
    "no finish": GOOD.replace(b'"stop"', b"null"),
    "empty finish": GOOD.replace(b'"stop"', b'""'),
    "null content": GOOD.replace(b'"yes"', b"null"),
    "number content": GOOD.replace(b'"yes"', b"7"),
    "no message": b'{"choices":[{"index":0,"finish_reason":"stop"}]}',
    "string index": GOOD.replace(b'"index": 0', b'"index": "0"'),
    "wrong index": GOOD.replace(b'"index": 0', b'"index": 1'),
    "negative index": GOOD.replace(b'"index": 0', b'"index": -1'),
    "too many": json.dumps({"choices": [choice(), choice(index=1)]}).encode(),
    "odd error": b'{"error":{"message":"the engine is dead"}}',
    "odd error beside choices": GOOD[:-1] + b',"error":"odd"}',
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_reply_that_is_not_whole_is_malformed(name: str) -> None:
    with pytest.raises(MalformedResponse) as caught:
        from_wire_chat(NOT_WHOLE[name], Draws(ASK), SERVER)
    assert caught.value.retryable
    assert str(caught.value).startswith("here: ")


def test_choices_that_contradict_each_other() -> None:
    for choices in ([choice(), choice()], [choice(index=None), choice(index=None)], [choice(), choice(index=None)]):
        with pytest.raises(MalformedResponse):
            answered(*choices)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", "text/event-stream"])
def test_a_reply_of_another_type_is_malformed(kind: str) -> None:
    with pytest.raises(MalformedResponse, match="expected JSON"):
        from_wire_chat(GOOD, Draws(ASK), SERVER, {"content-type": kind})
    from_wire_chat(GOOD, Draws(ASK), SERVER, {"content-type": "application/json; charset=utf-8"})


def test_text_choices_find_their_prompt_by_index() -> None:
    batch = [Draws(Request(prompt=text), 2) for text in ("a", "bbb")]
    choices = [{"index": i, "text": f"t{i}", "finish_reason": "stop"} for i in (3, 0, 2, 1)]
    usage = {"prompt_tokens": 4, "completion_tokens": 8}
    outcomes = from_wire_text(json.dumps({"choices": choices, "usage": usage}).encode(), batch, SERVER)
    assert [[c.text for c in outcome] for outcome in outcomes if isinstance(outcome, list)] == [
        ["t0", "t1"],
        ["t2", "t3"],
    ]
    assert [[c.usage for c in o] for o in outcomes if isinstance(o, list)] == [
        [Usage(1, 2, 1), Usage(0, 2, 1)],
        [Usage(3, 2, 1), Usage(0, 2, 1)],
    ]
    for wrong in (choices[:3], [*choices[:3], {**choices[3], "index": 7}], choices + choices[:1]):
        with pytest.raises(MalformedResponse):
            from_wire_text(json.dumps({"choices": wrong}).encode(), batch, SERVER)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "index", "message", "content", "finish_reason", "usage", "error", "text", "logprobs"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.integers(1, 3))
def test_any_json_is_answers_or_a_typed_error(value: Any, n: int) -> None:
    try:
        (outcome,) = from_wire_chat(json.dumps(value).encode(), Draws(ASK, n), SERVER)
    except ModelError:
        return
    assert isinstance(outcome, list)
    assert 0 < len(outcome) <= n


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_any_damage_is_answers_or_a_typed_error(garbage: bytes, where: int, gone: int) -> None:
    with suppress(ModelError):
        from_wire_chat(GOOD[:where] + garbage + GOOD[where + gone :], Draws(ASK), SERVER)


# Usage


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        {},
        {"prompt_tokens": 3},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1 << 60},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": 1 << 80, "completion_tokens": 1},
    ],
)
def test_usage_that_cannot_be_is_estimated(usage: Any) -> None:
    completions = answered(choice("x" * 9), choice("x" * 8, 1), usage=usage)
    assert [c.usage for c in completions] == [Usage(1, 3, 1, estimated=True), Usage(0, 2, 1, estimated=True)]


def test_usage_is_divided_by_tokens_where_they_are_known_else_by_length() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 10}
    by_length = answered(choice("x" * 30), choice("x" * 10, 1), usage=usage)
    assert [c.usage.completion_tokens for c in by_length] == [8, 2]
    token = {"token": "x", "logprob": -1.0}
    lists = [{**choice("x" * 30), "logprobs": {"content": [token] * 2}}]
    lists += [{**choice("x" * 10, 1), "logprobs": {"content": [token] * 8}}]
    assert [c.usage.completion_tokens for c in answered(*lists, usage=usage)] == [2, 8]


@given(st.integers(0, 10**8), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_parts_sum_to_the_whole_and_are_as_near_as_can_be(whole: int, weights: list[int]) -> None:
    parts = divide(whole, weights)
    assert sum(parts) == whole
    if sum(weights):
        assert all(
            abs(part - whole * weight / sum(weights)) < 1 + 1e-6 for part, weight in zip(parts, weights, strict=True)
        )


# Errors


@pytest.mark.parametrize(
    ("status", "error", "kind", "retryable"),
    [
        (400, {}, BadRequest, False),
        (401, {}, AuthenticationFailed, False),
        (402, {}, QuotaExceeded, False),
        (403, {}, AuthenticationFailed, False),
        (404, {}, BadRequest, False),
        (408, {}, ServerError, True),
        (409, {}, ServerError, True),
        (413, {}, BadRequest, False),
        (422, {}, BadRequest, False),
        (429, {}, RateLimited, True),
        (429, {"code": "insufficient_quota"}, QuotaExceeded, False),
        (429, {"type": "insufficient_quota"}, QuotaExceeded, False),
        (400, {"message": "Your credit balance is too low"}, QuotaExceeded, False),
        (400, {"code": "context_length_exceeded"}, ContextLengthExceeded, False),
        (400, {"message": "This model's maximum context length is 4096 tokens"}, ContextLengthExceeded, False),
        (400, {"message": "the request exceeds the available context size"}, ContextLengthExceeded, False),
        (400, {"message": "the prompt is too long"}, ContextLengthExceeded, False),
        (418, {}, BadRequest, False),
        (307, {}, BadRequest, False),
        (500, {}, ServerError, True),
        (502, {}, ServerError, True),
        (503, {}, ServerError, True),
        (504, {}, ServerError, True),
        (529, {}, ServerError, True),
        (599, {}, ServerError, True),
        (200, {"message": "slow down", "code": 429}, RateLimited, True),
        (200, {"message": "slow down", "code": "429"}, RateLimited, True),
        (200, {"message": "no", "type": "invalid_request_error"}, BadRequest, False),
        (200, {"message": "no", "code": "insufficient_quota"}, QuotaExceeded, False),
        (200, {"message": "no", "type": "server_error"}, ServerError, True),
        (200, {"message": "no", "type": "weird"}, MalformedResponse, True),
    ],
)
def test_what_a_status_and_its_words_mean(
    status: int, error: dict[str, Any], kind: type[ModelError], retryable: bool
) -> None:
    found = error_of(status, {}, json.dumps({"error": {"message": "no", **error}}).encode(), SERVER)
    assert type(found) is kind
    assert found.retryable is retryable
    assert found.endpoint == "here"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "500"),
        (b"<html><body><h1>Bad  gateway</h1></body></html>", "500 Bad gateway"),
        (b'{"error":"plain"}', "500 plain"),
        (b'{"detail":"not found"}', "500 not found"),
        (b'{"detail":[{"loc":["body"]}]}', "500 [{'loc': ['body']}]"),
        (b'{"message":"old shape"}', "500 old shape"),
        (b'"text"', "500 text"),
        (b"[" * 100_000, "500 " + "[" * 500),
        (b"\xff\xfe", "500 \ufffd\ufffd"),
        (json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}).encode(), "500 Incorrect API key: [key]"),
        (b'{"error":{"message":"Incorrect API key: sk-other****wxyz."}}', "500 Incorrect API key: [key]"),
    ],
)
def test_the_server_s_words_are_passed_on_without_keys(body: bytes, said: str) -> None:
    assert str(error_of(500, {}, body, SERVER)) == f"here: {said}"
    assert KEY not in repr(SERVER)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "1000000000"}, 1e9),
        ({"retry-after": "9", "retry-after-ms": "20"}, 0.02),
        ({"retry-after": "9", "retry-after-ms": "soon"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        *(({"retry-after": word}, None) for word in ("-1", "inf", "nan", "1e400", "soon", "", "٣", "0x10", "9" * 99)),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    assert error_of(429, headers, b"", SERVER).retry_after == seconds


def test_retry_after_a_date() -> None:
    seconds = retry_after({"retry-after": formatdate(time() + 30, usegmt=True)})
    assert seconds is not None
    assert 25 < seconds <= 31


def test_the_server_has_the_last_word_on_trying_again() -> None:
    assert error_of(400, {"x-should-retry": "true"}, b"", SERVER).retryable
    assert not error_of(503, {"x-should-retry": "false"}, b"", SERVER).retryable
    assert error_of(503, {"x-should-retry": "maybe"}, b"", SERVER).retryable
    assert not error_of(402, {"x-should-retry": "true"}, b"", SERVER).retryable


# Streams


def parsed(*chunks: bytes) -> list[bytes]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": comment\nevent: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"\n\n\n: only a comment\n\n", []),
        (b"data: cut", []),
        (b"data: cut\n", []),
    ],
)
def test_events(stream: bytes, events: list[bytes]) -> None:
    assert parsed(stream) == events
    assert parsed(*(bytes([byte]) for byte in stream)) == events


pieces = st.lists(
    st.sampled_from([b"data: ", b"data:", b"x", b"\n", b"\r", b"\r\n", b":", b"\xef\xbb\xbf", b"\xc3\xa9"])
)


@settings(max_examples=500, deadline=None)
@example([b"data: x", b"\r", b"\n"], [8, 8])  # nothing between CR and LF
@given(pieces, st.lists(st.integers(0, 200)))
def test_events_do_not_depend_on_how_the_bytes_are_cut(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert parsed(*(stream[a:b] for a, b in pairwise(edges))) == parsed(stream)


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    parser = SseParser()
    for _ in range(10_000):
        assert parser.feed(b"x" * 1000) == []
    assert parser.feed(b"\n\n") == []


def chunks(*deltas: dict[str, Any], finish: str | None = "stop", done: bool = True) -> list[bytes]:
    lines: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}], "model": "served"} for delta in deltas]
    if finish:
        lines.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    lines.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    data = [json.dumps(line, ensure_ascii=False).encode() for line in lines]
    return [b"data: %s\n\n" % line for line in [*data, *([b"[DONE]"] if done else [])]]


def put_together(stream: bytes, cuts: list[int]) -> tuple[str, Completion]:
    reply = StreamedReply(ASK, SERVER)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    deltas = [delta for a, b in pairwise(edges) for delta in reply.feed(stream[a:b])]
    return "".join(delta.text for delta in deltas), reply.completion()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=6), st.lists(st.integers(0, 900)))
def test_a_stream_put_together_is_the_answer(texts: list[str], cuts: list[int]) -> None:
    text, completion = put_together(b"".join(chunks(*({"content": text} for text in texts))), cuts)
    assert text == completion.text == "".join(texts)
    assert completion.usage == Usage(3, 2, 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_a_stream_cut_anywhere_is_no_answer(where: int) -> None:
    stream = b"".join(chunks({"content": "One "}, {"content": "fish, naïve 🐟"}))
    where %= len(stream)
    with pytest.raises(MalformedResponse):
        put_together(stream[:where], [])


def test_a_stream_is_whole_with_finish_reason_and_done() -> None:
    for stream in (chunks({"content": "a"}, done=False), chunks({"content": "a"}, finish=None)):
        with pytest.raises(MalformedResponse, match="ended without"):
            put_together(b"".join(stream), [])


def test_a_stream_of_reasoning_tools_and_logprobs() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    calls: list[dict[str, Any]] = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "c2", "function": {"name": "g", "arguments": "[]"}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    stream = chunks(
        {"reasoning_content": "hm"}, {"reasoning": "!"}, *({"tool_calls": [c]} for c in calls), finish="tool_calls"
    )
    token = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": logprobs}]}
    _, completion = put_together(b"data: " + json.dumps(token).encode() + b"\n\n" + b"".join(stream), [])
    assert completion == Completion(
        "a",
        "tool_calls",
        Usage(3, 2, 1),
        "served",
        logprobs=(TokenLogprob("a", -0.5),),
        tool_calls=(
            Json.of({"type": "function", "id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}}),
            Json.of({"type": "function", "id": "c2", "function": {"name": "g", "arguments": "[]"}}),
        ),
        reasoning="hm!",
    )


def test_a_streamed_reply_has_its_id() -> None:
    first = b'data: {"id": "chatcmpl-1", "choices": []}\n\n'
    _, completion = put_together(first + b"".join(chunks({"content": "a"})), [])
    assert completion.id == "chatcmpl-1"


def test_an_error_in_a_stream_is_the_server_s() -> None:
    reply = StreamedReply(ASK, SERVER)
    assert reply.feed(chunks({"content": "a"})[0]) == [Delta("a")]
    with pytest.raises(RateLimited, match=r"slow down \[key\]"):
        reply.feed(b'event: error\ndata: {"error":{"message":"slow down %s","code":429}}\n\n' % KEY.encode())
