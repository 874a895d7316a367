"""OpenAI's own Python SDK against the server, with nothing changed but its base_url."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel as Form
from pydantic import TypeAdapter
from tests.backends.faulty_server import faulty_server
from tests.scripting import run
from tests.server.sdks import WEATHER, assistant, served
from tests.server.serving import scripted_model, serving

from shoal.backends.config import Config, Endpoint
from shoal.errors import ContextLengthExceeded, ModelError, QuotaExceeded, RateLimited, ServerError
from shoal.runtime.types import Completion, Request, TokenLogprob
from shoal.server.access.keys import settings_for
from shoal.server.names import open_models

MODELS = ["m", "self_consistency(n=3)@m"]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
TOOL: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}


class Weather(Form):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with served({"m": scripted_model(assistant)}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


# Chat completions


@pytest.mark.parametrize("model", MODELS)
def test_chat(client: openai.OpenAI, model: str) -> None:
    reply = client.chat.completions.create(model=model, messages=user("Hi"))
    ChatCompletion.model_validate(reply.model_dump())
    assert reply.choices[0].message.content == "You said: Hi"
    assert reply._request_id is not None
    assert reply._request_id.startswith("req_")
    assert reply.usage is not None
    assert reply.usage.total_tokens == (4 if model == "m" else 12)


@pytest.mark.parametrize("model", MODELS)
def test_chat_streams(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model, messages=user("Hi there"), stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump())
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(said) == "You said: Hi there"
    assert chunks[-1].usage is not None
    with client.chat.completions.stream(model=model, messages=user("Hi there")) as events:
        assert events.get_final_completion().choices[0].message.content == "You said: Hi there"


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_in_chat_and_its_result_is_heard(client: openai.OpenAI, model: str) -> None:
    asked: list[Any] = user("Weather in Oslo?")
    first = client.chat.completions.create(model=model, messages=asked, tools=[CHAT_TOOL])
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Oslo"}')
    asked += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "cold"}]
    second = client.chat.completions.create(model=model, messages=asked, tools=[CHAT_TOOL])
    assert second.choices[0].message.content == "It is cold."
    with client.chat.completions.stream(model=model, messages=user("Weather?"), tools=[CHAT_TOOL]) as events:
        streamed = events.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert streamed[0].function.arguments == '{"city":"Oslo"}'


@pytest.mark.parametrize("model", MODELS)
def test_answers_of_a_form_are_parsed(client: openai.OpenAI, model: str) -> None:
    chat = client.chat.completions.parse(model=model, messages=user("Q"), response_format=Weather)
    assert chat.choices[0].message.parsed == Weather(city="Oslo", degrees=4)
    response = client.responses.parse(model=model, input="Q", text_format=Weather)
    assert response.output_parsed == Weather(city="Oslo", degrees=4)


def test_several_answers(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="re2@m", messages=user("Hi"), n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]


def test_the_async_client() -> None:
    async def main() -> tuple[str | None, str, str, str, str]:
        async with (
            serving({"m": scripted_model(assistant)}) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
        ):
            whole = await client.chat.completions.create(model="re2@m", messages=user("Hi"))
            stream = await client.chat.completions.create(model="m", messages=user("Hi"), stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            response = await client.responses.create(model="m", input="Hi")
            text = await client.completions.create(model="m", prompt="Hi")
            async with client.responses.stream(model="m", input="Hi") as events:
                final = await events.get_final_response()
            said = whole.choices[0].message.content
            return said, "".join(pieces), response.output_text, text.choices[0].text, final.output_text

    whole, *others = run(main())
    assert whole is not None
    assert others == ["You said: Hi"] * 4


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"m", "self_consistency@m"} <= set(names)
    assert client.models.retrieve("self_consistency(n=3)@m").id == "self_consistency(n=3)@m"


# Text completions


@pytest.mark.parametrize("model", MODELS)
def test_texts_are_continued(client: openai.OpenAI, model: str) -> None:
    reply = client.completions.create(model=model, prompt=["one", "two"], n=2, echo=True)
    assert reply.id.startswith("cmpl-")
    texts = [choice.text for choice in reply.choices]
    assert texts == ["oneYou said: one"] * 2 + ["twoYou said: two"] * 2
    with client.completions.create(
        model=model, prompt="one", stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "You said: one"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert last.usage is not None


def test_the_logprobs_of_texts_are_parallel_lists() -> None:
    tokens = (TokenLogprob("Hel", -0.5, (("Hel", -0.5), ("Jel", -1.0))), TokenLogprob("lo", -0.25))
    model = scripted_model(lambda request: Completion("Hello", logprobs=tokens))
    with served({"m": model}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        reply = client.completions.create(model="m", prompt="Say", logprobs=2)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.token_logprobs) == (["Hel", "lo"], [-0.5, -0.25])
    assert logprobs.text_offset == [0, 3]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"Hel": -0.5, "Jel": -1.0}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_what_no_text_can_have_is_refused(client: openai.OpenAI, body: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="m", **body)
    assert caught.value.param == param


# Responses


@pytest.mark.parametrize("model", MODELS)
def test_a_response_is_complete(client: openai.OpenAI, model: str) -> None:
    reply = client.responses.create(
        model=model, input="Hi", instructions="Be brief.", metadata={"run": "7"}, temperature=0.5, store=True
    )
    Response.model_validate(reply.model_dump())
    assert (reply.output_text, reply.status, reply.object) == ("You said: Hi", "completed", "response")
    assert (reply.metadata, reply.instructions, reply.temperature) == ({"run": "7"}, "Be brief.", 0.5)
    assert reply.model_dump()["store"] is False
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert reply.usage.output_tokens_details.reasoning_tokens == (0 if model == "m" else 6)


def test_a_response_cut_short_says_so(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="m", input="Hi", max_output_tokens=1)
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    with client.responses.create(model="m", input="Hi", max_output_tokens=1, stream=True) as stream:
        assert list(stream)[-1].type == "response.incomplete"


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_in_a_response_and_its_result_is_heard(client: openai.OpenAI, model: str) -> None:
    asked: list[Any] = user("Weather in Oslo?")
    first = client.responses.create(model=model, input=asked, tools=[TOOL], include=["reasoning.encrypted_content"])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city":"Oslo"}')
    asked += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "cold"}]
    assert client.responses.create(model=model, input=asked, tools=[TOOL]).output_text == "It is cold."
    with client.responses.stream(model=model, input="Weather?", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert streamed.arguments == '{"city":"Oslo"}'
    assert kinds[2:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_response_streams_in_the_apis_order(client: openai.OpenAI) -> None:
    with client.responses.create(model="m", input="Hi", stream=True) as stream:
        events = [EVENTS.validate_python(event.model_dump(warnings=False)) for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert events[-1].response.output_text == "You said: Hi" == events[-4].text
    assert events[0].response.status == "in_progress"


def test_what_a_model_thinks_is_an_item_of_its_own() -> None:
    model = scripted_model(lambda request: Completion("Four.", reasoning="2 + 2"))
    with served({"m": model}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        thought, said = client.responses.create(model="m", input="Q").output
        with client.responses.create(
            model="self_consistency(n=2)@m", input="Q", stream=True, extra_body={"shoal": {"progress": True}}
        ) as stream:
            events = [EVENTS.validate_python(event.model_dump(warnings=False)) for event in stream]
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "2 + 2"
    assert said.type == "message"
    progress = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert progress.startswith("1 call, ")
    first, second = events[-1].response.output
    assert (first.content[0].text, second.content[0].text) == (progress, "Four.")
    added = [event.type for event in events].index("response.reasoning_text.done")
    assert [event.type.removeprefix("response.") for event in events[added : added + 5]] == [
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added"),
    ]


def test_the_logprobs_of_a_response() -> None:
    model = scripted_model(lambda request: Completion("Hi", logprobs=(TokenLogprob("Hi", -0.5, (("Hi", -0.5),)),)))
    with served({"m": model}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        (item,) = client.responses.create(model="m", input="Q", top_logprobs=1).output
        asked: Any = {"include": ["message.output_text.logprobs"], "text": {"format": {"type": "text"}}}
        with client.responses.create(model="m", input="Q", stream=True, **asked) as stream:
            (done,) = [event for event in stream if event.type == "response.output_text.done"]
    assert item.type == "message"
    part = item.content[0]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert (part.logprobs[0].token, part.logprobs[0].top_logprobs[0].logprob) == ("Hi", -0.5)
    assert done.logprobs[0].logprob == -0.5
    assert [request.params.top_logprobs for request in model.backend.requests] == [1, 0]  # type: ignore[attr-defined]


def test_an_empty_answer_is_a_message_still() -> None:
    model = scripted_model(lambda request: "")
    with served({"m": model}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.responses.create(model="m", input="Q").output[0].type == "message"
        with client.responses.stream(model="m", input="Q") as stream:
            assert stream.get_final_response().output_text == ""


def test_images_and_all_forms_of_input_are_understood() -> None:
    model = scripted_model(assistant)
    asked: Any = [
        {"role": "developer", "content": "Be brief."},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I may not."}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "A cat"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And here?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            ],
        },
    ]
    with served({"m": model}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        client.responses.create(model="m", input=asked, tool_choice={"type": "function", "name": "look"}, tools=[TOOL])
    (request,) = model.backend.requests  # type: ignore[attr-defined]
    system, refused, said, result, last = request.messages
    assert request.params.extra.value()["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert (refused.role, refused.content) == ("assistant", "I may not.")
    assert (system.role, system.content) == ("system", "Be brief.")
    assert (said.content, [call.value()["id"] for call in said.tool_calls]) == ("I look.", ["c1", "c2"])
    assert (result.role, result.content, result.tool_call_id) == ("tool", "A cat", "c1")
    assert last.content.value()[1]["image_url"] == {"url": "data:image/png;base64,AA==", "detail": "low"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
            "input[0].content",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"extra_body": {"n": 2}}, "n"),
    ],
)
def test_what_needs_a_memory_or_tools_of_the_providers_is_refused(client: openai.OpenAI, body: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "m", "input": "Hi", **body})
    assert caught.value.param == param


def test_no_response_is_kept(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no response is kept"):
        client.responses.retrieve("resp_1")


def test_a_response_that_breaks_off_has_failed_and_raises() -> None:
    async def main() -> list[str]:
        kinds: list[str] = []
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with (
                serving(models) as server,
                openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
            ):
                stream = await client.responses.create(model="up/m", input="[[sse-cut]]", stream=True)
                with pytest.raises(openai.APIError, match=r"ended|closed|cut|broke"):
                    async for event in stream:
                        kinds.append(event.type)  # noqa: PERF401 - what comes before the error counts
        return kinds

    kinds = run(main())
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.failed"


# Errors


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (ContextLengthExceeded("too long"), openai.BadRequestError, 400),
        (QuotaExceeded("no credit"), openai.RateLimitError, 429),
        (RateLimited("slow down", retryable=False), openai.RateLimitError, 429),
        (ServerError("broken", retryable=False), openai.InternalServerError, 502),
    ],
)
def test_failures_of_models_are_the_sdks_errors(
    error: ModelError, kind: type[openai.APIStatusError], status: int
) -> None:
    def script(request: Request) -> str:
        raise error

    with (
        served({"m": scripted_model(script)}) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        for ask in (
            lambda: client.chat.completions.create(model="m", messages=user("Hi")),
            lambda: client.chat.completions.create(model="re2@m", messages=user("Hi"), stream=True),
            lambda: client.responses.create(model="m", input="Hi"),
            lambda: client.responses.create(model="m", input="Hi", stream=True),
            lambda: client.completions.create(model="m", prompt="Hi", stream=True),
        ):
            with pytest.raises(kind) as caught:
                ask()
            assert caught.value.status_code == status
            assert caught.value.request_id is not None
            assert str(error) in caught.value.message


def test_a_key_is_needed_where_keys_are() -> None:
    with served({"m": scripted_model(assistant)}, keys={"alice": settings_for("sk-alice")}) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-alice") as client:
            assert client.responses.create(model="m", input="Hi").output_text == "You said: Hi"
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="sk-mallory") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def test_no_such_model_and_no_such_technique(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="nobody", input="Hi")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="nobody@m", prompt="Hi")


def test_the_sdk_waits_as_long_as_it_is_told_and_tries_again() -> None:
    asked = []

    def script(request: Request) -> str:
        asked.append(request)
        if len(asked) == 1:
            raise RateLimited("slow down", retryable=False, retry_after=1)
        return "Here."

    with served({"m": scripted_model(script)}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.responses.create(model="m", input="Hi").output_text == "Here."
    assert len(asked) == 2


def test_the_sdk_does_not_try_again_what_would_fail_again() -> None:
    asked = []

    def script(request: Request) -> str:
        asked.append(request)
        raise QuotaExceeded("no credit")

    with (
        served({"m": scripted_model(script)}) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.chat.completions.create(model="m", messages=user("Hi"))
    assert len(asked) == 1


def test_a_client_that_gives_up_stops_the_call() -> None:
    stopped = threading.Event()

    async def script(request: Request) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    with (
        served({"m": scripted_model(script)}) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=0.2) as client,
    ):
        with pytest.raises(openai.APITimeoutError):
            client.responses.create(model="m", input="Hi")
        assert stopped.wait(5)
