"""Anthropic's own Python SDK against the server, with nothing changed but its base_url."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import BaseModel as Form
from pydantic import TypeAdapter
from tests.backends.faulty_server import faulty_server
from tests.scripting import run
from tests.server.sdks import WEATHER, assistant, served
from tests.server.serving import Reply, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.errors import ContextLengthExceeded, ModelError, RateLimited, ServerError
from shoal.runtime.types import Completion, Json, Request
from shoal.server.access.keys import settings_for
from shoal.server.names import open_models
from shoal.server.settings import Preset

MODELS = ["m", "self_consistency(n=3)@m"]
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
TOOL: Any = {"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER}


class Weather(Form):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def client() -> Iterator[anthropic.Anthropic]:
    with served({"m": scripted_model(assistant)}) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        yield client


def user(content: Any) -> Any:
    return [{"role": "user", "content": content}]


def asked(body: dict[str, Any]) -> Request:
    """What the model is asked for a body."""
    base: BaseModel = scripted_model(assistant)
    with served({"m": base}) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        client.messages.create(**{"model": "m", "max_tokens": 50, "messages": user("Hi"), **body})
    (request,) = base.backend.requests  # type: ignore[attr-defined]
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize("model", MODELS)
def test_a_message_is_complete(client: anthropic.Anthropic, model: str) -> None:
    reply = client.messages.create(model=model, max_tokens=50, messages=user("Hi"), system="Be brief.")
    Message.model_validate(reply.model_dump())
    (block,) = reply.content
    assert block.type == "text"
    assert block.text == "You said: Hi"
    assert (reply.role, reply.stop_reason, reply.stop_sequence) == ("assistant", "end_turn", None)
    assert reply.id.startswith("msg_")
    assert reply._request_id is not None
    assert reply._request_id.startswith("req_")
    calls = 1 if model == "m" else 3
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3 * calls, 3 * calls)
    assert reply.model_dump()["shoal"]["calls"] == calls


@pytest.mark.parametrize("model", MODELS)
def test_a_message_streams_in_the_apis_order(client: anthropic.Anthropic, model: str) -> None:
    with client.messages.create(model=model, max_tokens=50, messages=user("Hi"), stream=True) as stream:
        events = [EVENTS.validate_python(event.model_dump()) for event in stream]
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        *("message_start", "content_block_start", *("content_block_delta",) * deltas, "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert "".join(event.delta.text for event in events[2 : 2 + deltas]) == "You said: Hi"
    assert events[-2].delta.stop_reason == "end_turn"
    with client.messages.stream(model=model, max_tokens=50, messages=user("Hi")) as helped:
        assert "".join(helped.text_stream) == "You said: Hi"
        final = helped.get_final_message()
    assert final.usage.output_tokens == (3 if model == "m" else 9)
    assert final.usage.input_tokens == (1 if model == "m" else 3)


def test_the_async_client() -> None:
    async def main() -> tuple[Any, Any]:
        async with (
            serving({"m": scripted_model(assistant)}) as server,
            anthropic.AsyncAnthropic(base_url=server.url, api_key="none") as client,
        ):
            whole = await client.messages.create(model="re2@m", max_tokens=50, messages=user("Hi"))
            async with client.messages.stream(model="m", max_tokens=50, messages=user("Hi")) as stream:
                return whole, await stream.get_final_message()

    whole, streamed = run(main())
    assert whole.content[0].text.startswith("You said:")
    assert streamed.content[0].text == "You said: Hi"


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_used_and_its_result_is_heard(client: anthropic.Anthropic, model: str) -> None:
    talk: list[Any] = user("Weather in Oslo?")
    first = client.messages.create(model=model, max_tokens=50, messages=talk, tools=[TOOL])
    assert first.stop_reason == "tool_use"
    (use,) = first.content
    assert use.type == "tool_use"
    assert (use.name, use.input) == ("weather", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "cold"}]}
    talk += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(model=model, max_tokens=50, messages=talk, tools=[TOOL])
    assert second.content[0].type == "text"
    assert second.content[0].text == "It is cold."
    with client.messages.stream(model=model, max_tokens=50, messages=user("Weather?"), tools=[TOOL]) as stream:
        streamed = stream.get_final_message()
    assert streamed.stop_reason == "tool_use"
    assert streamed.content[0].type == "tool_use"
    assert streamed.content[0].input == {"city": "Oslo"}


@pytest.mark.parametrize("model", MODELS)
def test_answers_of_a_form_are_parsed(client: anthropic.Anthropic, model: str) -> None:
    reply = client.messages.parse(model=model, max_tokens=50, messages=user("Q"), output_format=Weather)
    assert reply.parsed_output == Weather(city="Oslo", degrees=4)


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_tokens"), ("content_filter", "refusal"), ("stop", "end_turn")]
)
def test_why_a_message_ends(finish: str, reason: str) -> None:
    model = scripted_model(lambda request: Completion("One", finish))
    with served({"m": model}) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        assert client.messages.create(model="m", max_tokens=1, messages=user("Q")).stop_reason == reason
        with client.messages.stream(model="m", max_tokens=1, messages=user("Q")) as stream:
            assert stream.get_final_message().stop_reason == reason


def test_what_a_model_thinks_is_told_where_it_is_asked_for() -> None:
    model = scripted_model(lambda request: Completion("Four.", reasoning="2 + 2"))
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    with served({"m": model}) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        plain = client.messages.create(model="m", max_tokens=2000, messages=user("Q"))
        thought = client.messages.create(model="m", max_tokens=2000, messages=user("Q"), thinking=thinking)
        again: Any = [*user("Q"), {"role": "assistant", "content": thought.content}, *user("Sure?")]
        client.messages.create(model="m", max_tokens=2000, messages=again, thinking=thinking)
        progress: Any = {"shoal": {"progress": True}}
        with client.messages.stream(
            model="self_consistency(n=2)@m", max_tokens=2000, messages=user("Q"), extra_body=progress
        ) as stream:
            streamed = stream.get_final_message()
    assert [block.type for block in plain.content] == ["text"]
    assert [block.type for block in thought.content] == ["thinking", "text"]
    assert model.backend.requests[2].messages[1].content == "Four."  # type: ignore[attr-defined]
    assert [block.type for block in streamed.content] == ["thinking", "text"]
    assert streamed.content[0].type == "thinking"
    assert "1 call" in streamed.content[0].thinking


def test_arguments_that_are_no_object_are_told_as_they_are() -> None:
    call = Json.of({"id": "c", "function": {"name": "weather", "arguments": "Oslo"}})
    model = scripted_model(lambda request: Completion("I look.", "tool_calls", tool_calls=(call,)))
    with served({"m": model}) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        said, use = client.messages.create(model="m", max_tokens=5, messages=user("Q"), tools=[TOOL]).content
    assert said.type == "text"
    assert use.type == "tool_use"
    assert use.input == {"arguments": "Oslo"}


def test_how_to_sample_reaches_the_model() -> None:
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 7}  # which this SDK has no arguments for
    request = asked({"stop_sequences": ["END"], "extra_body": sampling})
    params = request.params
    assert (params.max_tokens, params.stop, params.temperature) == (50, ("END",), 0.5)
    assert (params.top_k, params.top_p, params.seed) == (3, 0.9, 7)


def test_all_blocks_are_understood() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "See:"}, image]},
        {"type": "tool_result", "tool_use_id": "b", "is_error": True, "content": "no such file"},
        {"type": "text", "text": "Go on.", "cache_control": {"type": "ephemeral"}},
        linked,
    ]
    uses = [{"type": "tool_use", "id": name, "name": "look", "input": {"x": name}} for name in "ab"]
    talk = [
        *user("Look"),
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, *uses]},
        *user(results),
    ]
    system = [
        {"type": "text", "text": "One."},
        {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}},
    ]
    request = asked({"messages": talk, "system": system, "tools": [TOOL], "tool_choice": {"type": "any"}})
    first, _, said, seen, failed, last = request.messages
    assert first.content == "One.\n\nTwo."
    assert [call.value()["function"] for call in said.tool_calls] == [
        {"name": "look", "arguments": '{"x":"a"}'},
        {"name": "look", "arguments": '{"x":"b"}'},
    ]
    assert (seen.role, seen.tool_call_id, seen.content) == ("tool", "a", "See:")
    assert failed.content == "Error: no such file"
    assert [part["type"] for part in last.content.value()] == ["image_url", "text", "image_url"]  # type: ignore[union-attr]
    assert request.tools[0].value()["function"]["parameters"] == WEATHER
    assert request.params.extra is not None
    assert request.params.extra.value() == {"tool_choice": "required"}


def test_the_sdks_beta_goes_to_the_same_place(client: anthropic.Anthropic) -> None:
    reply = client.beta.messages.create(model="m", max_tokens=5, messages=user("Hi"), betas=["context-1m-2025-08-07"])
    assert reply.content[0].type == "text"
    assert reply.content[0].text == "You said: Hi"


def test_a_tool_is_chosen_and_a_system_turn_may_stand_between() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Now in French."}]}
    request = asked(
        {"messages": [*user("Hi"), system], "tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}}
    )
    assert (request.messages[1].role, request.messages[1].content) == ("system", "Now in French.")
    assert request.params.extra is not None
    assert request.params.extra.value() == {"tool_choice": {"type": "function", "function": {"name": "weather"}}}


def test_an_empty_answer_is_a_message_still() -> None:
    model = scripted_model(lambda request: Completion("", reasoning="Hm."))
    with served({"m": model}) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        with client.messages.stream(model="m", max_tokens=5, messages=user("Q")) as stream:
            assert [block.type for block in stream.get_final_message().content] == ["text"]
        assert client.messages.create(model="m", max_tokens=5, messages=user("Q")).content[0].type == "text"


def test_a_message_begun_by_the_client_is_continued() -> None:
    request = asked({"messages": [*user("Hi"), {"role": "assistant", "content": "Well,"}]})
    assert (request.messages[-1].role, request.messages[-1].content) == ("assistant", "Well,")


def test_tokens_are_counted_where_the_model_can(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="self_consistency@m", messages=user("one two three"), system="four")
    assert counted.input_tokens == 4


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": user([{"type": "document", "source": {}}])}, r"messages\[0\].content\[0\]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]}, r"messages\[0\]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, r"tools\[0\].type"),
        ({"tools": [{"name": "x"}]}, "input_schema"),
        ({"messages": user([{"type": "text"}])}, r"messages\[0\].content\[0\].text"),
        ({"messages": user([{"type": "tool_result", "tool_use_id": "x", "content": 3}])}, r"content\[0\].content"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"extra_body": {"mcp_servers": [{"url": "https://example.com"}]}}, "mcp_servers"),
        ({"extra_body": {"n": 2}}, "n: this API gives one answer"),
        ({"extra_body": {"max_tokens": None}}, "max_tokens"),
        ({"extra_body": {"temperature": -1}}, "temperature"),
    ],
)
def test_what_is_not_done_is_refused(client: anthropic.Anthropic, body: Any, where: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=where) as caught:
        client.messages.create(**{"model": "m", "max_tokens": 50, "messages": user("Hi"), **body})
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        (ContextLengthExceeded("too long"), anthropic.BadRequestError, "invalid_request_error"),
        (RateLimited("slow down", retryable=False), anthropic.RateLimitError, "rate_limit_error"),
        (ServerError("broken", retryable=False), anthropic.InternalServerError, "api_error"),
    ],
)
def test_failures_of_models_are_the_sdks_errors(
    error: ModelError, kind: type[anthropic.APIStatusError], named: str
) -> None:
    def script(request: Request) -> str:
        raise error

    with (
        served({"m": scripted_model(script)}) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        for stream in (False, True):
            with pytest.raises(kind, match=str(error)) as caught:
                client.messages.create(model="m", max_tokens=5, messages=user("Hi"), stream=stream)
            body: Any = caught.value.body
            assert (body["type"], body["error"]["type"], body["request_id"]) == (
                "error",
                named,
                caught.value.request_id,
            )


def test_a_message_that_breaks_off_raises() -> None:
    async def main() -> list[str]:
        kinds: list[str] = []
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with (
                serving(models) as server,
                anthropic.AsyncAnthropic(base_url=server.url, api_key="none") as client,
            ):
                stream = await client.messages.create(
                    model="up/m", max_tokens=5, messages=user("[[sse-cut]]"), stream=True
                )
                with pytest.raises(anthropic.APIStatusError, match="api_error"):
                    async for event in stream:
                        kinds.append(event.type)  # noqa: PERF401 - what comes before the error counts
        return kinds

    kinds = run(main())
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert "message_stop" not in kinds


def test_keys_and_paths_are_refused_in_the_apis_words() -> None:
    async def main() -> list[Reply]:
        keys = {"alice": settings_for("sk-alice")}
        async with serving({"m": scripted_model(assistant)}, keys=keys) as server:
            body = {"model": "m", "max_tokens": 5, "messages": user("Hi")}
            mine = {"x-api-key": "sk-alice", "anthropic-version": "2023-06-01"}
            return [
                await server.post("/v1/messages", body, headers=mine),
                await server.post("/v1/messages", body, headers={"x-api-key": "sk-mallory"}),
                await server.post("/v1/messages", {**body, "model": "nobody"}, headers=mine),
                await server.post("/v1/messages", b"{", headers=mine),
                await server.get("/v1/messages", headers=mine),
                await server.post("/v1/messages/batches", body, headers=mine),
            ]

    good, *refused = run(main())
    assert good.status == 200
    assert [(reply.status, reply.json["error"]["type"]) for reply in refused] == [
        (401, "authentication_error"),
        (404, "not_found_error"),
        (400, "invalid_request_error"),
        (405, "invalid_request_error"),
        (404, "not_found_error"),
    ]
    for reply in refused:
        assert reply.json["type"] == "error"
        assert reply.json["request_id"] == reply.headers["request-id"]


def test_a_preset_says_what_the_client_does_not() -> None:
    base = scripted_model(assistant)
    presets = {"careful": Preset("m", system="Be brief.", temperature=0.25)}
    with served({"m": base}, presets=presets) as url, anthropic.Anthropic(base_url=url, api_key="none") as client:
        client.messages.create(model="careful", max_tokens=5, messages=user("Hi"))
    (request,) = base.backend.requests  # type: ignore[attr-defined]
    assert (request.messages[0].content, request.params.temperature) == ("Be brief.", 0.25)
