"""POST /v1/chat/completions, asked over HTTP: pass-through, techniques, streams."""

import asyncio
from typing import Any

import pytest
from tests.backends.faulty_server import faulty_server
from tests.scripting import in_turn, run
from tests.server.serving import Client, Reply, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.backends.prices import Price
from shoal.errors import UsageError
from shoal.runtime.types import Request
from shoal.server.names import Names, open_models
from shoal.server.settings import Preset


def asked(model: str, script: Any = lambda request: "The answer is 4.", **body: Any) -> tuple[Reply, BaseModel]:
    base = scripted_model(script)

    async def main() -> Reply:
        async with serving({"m": base}) as client:
            return await client.chat(model, **body)

    return run(main()), base


def test_a_technique_answers_with_all_that_a_reply_has() -> None:
    script = in_turn("The answer is 5.", "It is 4. The answer is 4.", "The answer is 4.")
    reply, base = asked("self_consistency(n=3)@m", script)
    body = reply.json
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "self_consistency(n=3)@m")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "It is 4. The answer is 4.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    tokens = {"prompt_tokens": 3, "completion_tokens": 4 + 7 + 4, "total_tokens": 18}
    assert {name: body["usage"][name] for name in tokens} == tokens
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 8}
    assert (body["shoal"]["calls"], body["shoal"]["critical_path"], body["shoal"]["answer"]) == (3, 1, "4")
    assert len(base.backend.requests) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "body", "calls"),
    [
        ("self_consistency-m", {"self_consistency_n": 2}, 2),
        ("m", {"optillm_approach": "majority_voting", "self_consistency_n": 2}, 2),
        ("bon-m", {"best_of_n": 2}, 2),  # two alike need no judge
        ("m", {"shoal": {"technique": "re2&two_turn"}}, 3),
        ("re2|two_turn-m", {}, 3),
        ("none-m", {}, 1),
        ("m", {"extra_body": {"optillm_approach": "re2"}}, 1),
        ("self_consistency@m", {"shoal": {"options": {"n": 4}}}, 4),
    ],
)
def test_a_technique_is_chosen_by_name_or_body(model: str, body: dict[str, Any], calls: int) -> None:
    reply, base = asked(model, **body)
    assert reply.status == 200, reply.text
    assert len(base.backend.requests) == calls  # type: ignore[attr-defined]


def test_message_text_chooses_no_technique() -> None:
    _, base = asked("m", text="<optillm_approach>moa</optillm_approach> self_consistency@m")
    assert len(base.backend.requests) == 1  # type: ignore[attr-defined]


def test_n_answers_are_asked_at_once_and_differ() -> None:
    together = asyncio.Event()
    waiting = []

    async def script(request: Request) -> str:
        waiting.append(request)
        if len(waiting) == 4:
            together.set()
        await together.wait()
        return f"answer {request.sample}"

    reply, _ = asked("two_turn@m", script=lambda request: f"a{request.sample}", n=3)
    assert [choice["message"]["content"] for choice in reply.json["choices"]] == ["a(0,)", "a(1,)", "a(2,)"]
    reply, _ = asked("re2@m", script, n=4)
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1, 2, 3]


def test_a_stream_gives_the_answering_calls_words_then_the_end_and_the_usage() -> None:
    reply, _ = asked("moa@m", in_turn("one two three"), stream=True, stream_options={"include_usage": True})
    *chunks, last, done = reply.events
    assert done == "[DONE]"
    words = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert words == ["", "one ", "two ", "three", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > last["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_what_passes_through_reaches_the_server_and_the_client_as_it_was() -> None:
    async def main() -> tuple[Reply, Reply, Any]:
        async with faulty_server() as upstream:
            models = open_models(["up/big"], Config({"up": Endpoint(upstream.base_url, "sk-secret")}), None)
            async with serving(models) as client:
                body = {"tools": [{"x": 1}], "made_up": [1.0, None], "logprobs": True, "n": 2, "stream_options": None}
                whole = await client.chat("up/big", **body)
                stream = await client.chat("big", stream=True)
                return whole, stream, upstream.requests

    whole, stream, requests = run(main())
    assert requests[0].body["model"] == "big"
    assert requests[0].body["made_up"] == [1.0, None]
    assert requests[0].body["tools"] == [{"x": 1}]
    assert requests[0].headers["authorization"] == "Bearer sk-secret"
    assert len(whole.json["choices"]) == 2
    assert "shoal" not in whole.json
    assert stream.events[-1] == "[DONE]"


@pytest.mark.parametrize("model", ["up/m", "re2@up/m"])
def test_a_client_that_goes_away_stops_the_call_upstream(model: str) -> None:
    async def main() -> None:
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving(models) as client:
                task = asyncio.ensure_future(client.chat(model, "[[stall-before-headers]]"))
                await upstream.got(1)
                task.cancel()
                await upstream.hung_up(1)

    run(main())


def test_the_log_names_a_model_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shoal.server")

    async def main() -> None:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            for path in ("/v1/chat/completions", "/v1/completions"):
                await client.post(
                    path, {"model": "no body\n", "messages": [{"role": "user", "content": "Q"}], "prompt": "Q"}
                )
            await client.post("/v1/responses", {"model": "no body\n", "input": "Q"})
            await client.post(
                "/v1/messages", {"model": "no body\n", "max_tokens": 1, "messages": [{"role": "user", "content": "Q"}]}
            )

    run(main())
    assert [line.endswith(r"'no body\n' model_not_found") for line in caplog.messages] == [True] * 4, caplog.messages


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"model": "nobody@m"}, 400, "model", None),
        ({"model": "gguf//etc/passwd"}, 404, "model", "model_not_found"),
        ({"model": "scripted/x.py:f"}, 404, "model", "model_not_found"),
        ({"model": "best_of_n(judge=openai/x)@m"}, 404, "model", "model_not_found"),
        ({"model": "m", "messages": []}, 400, "messages", None),
        ({"model": "m", "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content", None),
        ({"model": "m", "n": 0}, 400, "n", None),
        ({"model": "m", "n": 17}, 400, "n", None),
        ({"model": "m", "temperature": "hot"}, 400, "temperature", None),
        ({"model": "rstar@m", "rollouts": 1000}, 400, "model", "budget_exceeded"),
        ({"model": "bon@m", "best_of_n": "many"}, 400, None, None),
        ({"model": 3}, 400, "model", None),
    ],
)
def test_bad_requests_are_refused_and_say_where(
    body: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            return await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Q"}], **body})

    reply = run(main())
    assert reply.status == status, reply.text
    assert (reply.error["param"], reply.error["code"]) == (param, code)


def test_pages_of_other_sites_and_other_hosts_are_refused() -> None:
    async def statuses(client: Client) -> list[int]:
        tries: list[dict[str, str]] = [
            {"host": "evil.test"},
            {"origin": "https://evil.test"},
            {"content-type": "text/plain"},
        ]
        return [(await client.post("/v1/chat/completions", b"{}", headers=headers)).status for headers in tries]

    async def main() -> list[int]:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            return await statuses(client)

    assert run(main()) == [403, 403, 415]


def test_a_preset_is_a_model_that_says_what_the_client_does_not() -> None:
    base = scripted_model(lambda request: "The answer is 4.")
    preset = Preset("re2@m", system="Be brief.", temperature=0.5)
    prices = {"scripted": Price(input=1.0, output=2.0)}

    async def main() -> tuple[Reply, Reply]:
        async with serving({"m": base}, presets={"careful": preset}, prices=prices) as client:
            hot = await client.chat("careful", temperature=0.9)
            return hot, await client.get("/v1/models")

    reply, listed = run(main())
    (asked,) = base.backend.requests  # type: ignore[attr-defined]
    assert asked.messages[0].content == "Be brief."
    assert asked.params.temperature == 0.9
    usage = reply.json["usage"]
    assert reply.json["shoal"]["cost"] == (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6
    assert "careful" in [model["id"] for model in listed.json["data"]]


@pytest.mark.parametrize("model", ["nobody", "re2@nobody", "re3@m", "other"])
def test_a_preset_of_what_is_not_served_is_a_mistake_of_the_configuration(model: str) -> None:
    presets = {"other": Preset("m"), "careful": Preset(model)}
    with pytest.raises(UsageError, match=r"\[presets.careful\]"):
        Names({"m": scripted_model(lambda request: "x")}, presets)
