"""What a technique's reply says of itself: usage, finish reasons, tools, logprobs, and what happens in silence."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.faulty_server import faulty_server
from tests.scripting import in_turn, run
from tests.server.serving import Reply, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.errors import ServerError
from shoal.runtime.types import Completion, Json, Request, TokenLogprob, Usage
from shoal.server.http.streams import EventStream
from shoal.server.names import open_models
from shoal.techniques import TECHNIQUES

every_technique = pytest.mark.parametrize("slug", TECHNIQUES)
CALL = Json.of({"id": "c1", "type": "function", "function": {"name": "weigh", "arguments": "{}"}})
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}


def asked(model: str, script: Callable[[Request], Any], **body: Any) -> tuple[Reply, BaseModel]:
    base = scripted_model(script)

    async def main() -> Reply:
        async with serving({"m": base}, max_calls=1000) as client:
            return await client.chat(model, **body)

    return run(main()), base


def plausible(request: Request) -> str:
    listed = f"1. Look at {len(request.text)}.\n2. Think of {request.sample}."
    return f"{listed}\nScore: 5\nThe answer is {sum(request.sample) % 3}."


@every_technique
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("n", [1, 3])
def test_usage_is_what_the_model_counted(slug: str, stream: bool, n: int) -> None:
    paid: list[Usage] = []

    def script(request: Request) -> Completion:
        text = plausible(request)
        paid.append(Usage(len(request.text), len(text), 1))
        return Completion(text, usage=paid[-1])

    reply, _ = asked(f"{slug}@m", script, n=n, stream=stream, stream_options={"include_usage": True})
    assert reply.status == 200, reply.text
    usage = reply.events[-2]["usage"] if stream else reply.json["usage"]
    assert usage["prompt_tokens"] == sum(each.prompt_tokens for each in paid)
    assert usage["completion_tokens"] == sum(each.completion_tokens for each in paid)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    texts = _texts(reply, stream=stream, n=n)
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 <= hidden < usage["completion_tokens"]
    said = {len(text) for text in texts}
    if said <= {each.completion_tokens for each in paid}:  # the answers are replies of the model, word for word
        assert hidden == usage["completion_tokens"] - sum(map(len, texts))


def _texts(reply: Reply, *, stream: bool, n: int) -> list[str]:
    if not stream:
        return [choice["message"]["content"] for choice in reply.json["choices"]]
    texts = [""] * n
    for event in reply.events[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    return texts


@every_technique
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_call_of_a_tool_comes_through_or_is_refused(slug: str, stream: bool) -> None:
    def script(request: Request) -> Completion | str:
        return Completion("", finish_reason="tool_calls", tool_calls=(CALL,)) if request.tools else plausible(request)

    talk = [
        {"role": "user", "content": "How heavy?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL.value()]},
        {"role": "tool", "tool_call_id": "c1", "content": "0.4 kg"},
        {"role": "user", "content": "And ten?"},
    ]
    reply, base = asked(f"{slug}@m", script, tools=[TOOL], messages=talk, stream=stream)
    if reply.status != 200:
        assert (reply.status, base.backend.requests) == (400, [])  # type: ignore[attr-defined]
        return
    if stream:
        assert reply.events[-1] == "[DONE]"
        (last,) = (choice for event in reply.events[:-1] for choice in event["choices"] if choice["finish_reason"])
        called = last["delta"]["tool_calls"]
        assert [call.pop("index") for call in called] == [0]
    else:
        (last,) = reply.json["choices"]
        called = last["message"]["tool_calls"]
    assert (last["finish_reason"], called) == ("tool_calls", [CALL.value()])


@every_technique
@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_finish_reason_is_the_models_own(slug: str, reason: str) -> None:
    reply, _ = asked(f"{slug}@m", lambda request: Completion("Ten tins weigh", finish_reason=reason))
    if reply.status != 200:  # nothing came of it
        assert (reply.status, reply.error["code"]) == (502, "technique_error")
        return
    assert reply.json["choices"][0]["finish_reason"] == reason


def test_a_choice_from_each_technique_where_no_number_is_asked_for() -> None:
    for body, choices in (({}, 2), ({"n": 1}, 1), ({"n": 3}, 3)):
        reply, base = asked("re2|two_turn@m", lambda request: f"a{len(request.messages)}", **body)
        assert len(reply.json["choices"]) == choices
        assert reply.json["shoal"]["calls"] == len(base.backend.requests)  # type: ignore[attr-defined]


def test_logprobs_come_whole_and_streamed() -> None:
    likely = Completion("yes", logprobs=(TokenLogprob("yes", -0.1, (("no", -2.0),)),))
    whole, _ = asked("re2@m", lambda request: likely, logprobs=True, top_logprobs=1)
    stream, _ = asked("re2@m", lambda request: likely, logprobs=True, top_logprobs=1, stream=True)
    expected = whole.json["choices"][0]["logprobs"]
    assert expected["content"][0]["top_logprobs"][0]["token"] == "no"
    found = [event["choices"][0]["logprobs"] for event in stream.events[:-1]]
    assert [each for each in found if each] == [expected]


def test_a_seed_gives_each_draw_its_own_and_the_same_again() -> None:
    async def main() -> list[Any]:
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving(models) as client:
                for _ in range(2):
                    await client.chat("self_consistency(n=3)@up/m", seed=7)
            return [request.body["seed"] for request in upstream.requests]

    seeds = run(main())
    assert len(set(seeds)) == 3
    assert sorted(seeds[:3]) == sorted(seeds[3:])


def test_an_error_after_the_first_word_is_the_last_event() -> None:
    calls: list[Request] = []

    def script(request: Request) -> str:
        calls.append(request)
        if request.sample[-1:] == (1,):
            raise ServerError("down", retryable=False)
        return "a few words"

    async def main() -> Reply:
        async with serving({"m": scripted_model(script, max_n=1)}) as client:
            return await client.chat("re2@m", n=2, stream=True)

    reply = run(main())
    if reply.status == 200:
        assert reply.events[-1]["error"]["code"] == "upstream_error"
        assert "[DONE]" not in reply.events
    else:
        assert reply.error["code"] == "upstream_error"


def test_progress_is_told_as_reasoning_where_it_is_asked_for() -> None:
    script = in_turn("The answer is 4.")
    told, _ = asked("self_consistency(n=3)@m", script, stream=True, shoal={"progress": True})
    not_told, _ = asked("self_consistency(n=3)@m", script, stream=True)
    assert told.text.count("reasoning_content") == 3
    assert "reasoning_content" not in not_told.text


@pytest.mark.parametrize("model", ["m", "two_turn@m", "up/m"])
def test_a_stream_is_never_silent(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = EventStream.__init__

    def quick(self: EventStream, *given: Any, **options: Any) -> None:
        before(self, *given, **{**options, "begin_after": 0.02, "silence": 0.02})

    monkeypatch.setattr(EventStream, "__init__", quick)

    async def main() -> list[bytes]:
        async with faulty_server() as upstream:
            up = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)

            async def script(request: Request) -> str:
                return await asyncio.Event().wait() and ""

            async with serving({"m": scripted_model(script), **up}) as client:
                body = {"model": model, "messages": [{"role": "user", "content": "[[stall-before-headers]]"}]}
                url = client.url + "/v1/chat/completions"
                async with asyncio.timeout(5), client.session.post(url, json={**body, "stream": True}) as response:
                    return [await response.content.readuntil(b"\n\n") for _ in range(4)]

    comments = run(main())
    assert all(comment.startswith(b": ") for comment in comments)
    assert (b"calls" in comments[-1]) == (model != "up/m")
