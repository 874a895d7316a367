"""What holds for text completions, responses and messages alike, and text completions that pass to a server."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from tests.backends.faulty_server import faulty_server
from tests.scripting import run
from tests.server.sdks import assistant
from tests.server.serving import Reply, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.runtime.model import Applied
from shoal.runtime.types import Request
from shoal.server.access.keys import settings_for
from shoal.server.names import open_models
from shoal.server.settings import KeySettings, Preset

USER = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
    "/v1/chat/completions": {"messages": USER},
}
STALLING = "up/[[stall-before-headers]]"
PATHS = pytest.mark.parametrize("path", BODIES)


def asked(path: str, *, settings: dict[str, Any] | None = None, **body: Any) -> tuple[Reply, int]:
    """The reply, and how many calls it took."""
    base = scripted_model(assistant)

    async def main() -> Reply:
        async with serving({"m": base}, **(settings or {})) as client:
            return await client.post(path, {**BODIES[path], "model": "m", **body})

    return run(main()), len(base.backend.requests)  # type: ignore[attr-defined]


@PATHS
@pytest.mark.parametrize(
    ("body", "technique", "calls"),
    [
        ({"model": "self_consistency(n=2)@m"}, "self_consistency(n=2)", 2),
        ({"model": "self_consistency-m", "self_consistency_n": 2}, "self_consistency(n=2)", 2),
        ({"shoal": {"technique": "self_consistency", "options": {"n": 2}}}, "self_consistency(n=2)", 2),
        ({"optillm_approach": "majority_voting", "extra_body": {"self_consistency_n": 2}}, "self_consistency(n=2)", 2),
        ({"model": "re2@m"}, "re_reading", 1),
        ({}, None, 1),
    ],
)
def test_a_technique_is_chosen_the_same_way(path: str, body: Any, technique: str | None, calls: int) -> None:
    reply, made = asked(path, **body)
    assert reply.status == 200, reply.text
    told = reply.json["shoal"]
    assert (told["technique"], told["calls"], made) == (technique, calls, calls)


@PATHS
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"model": "gguf//etc/passwd"}, 404),
        ({"model": "nobody@m"}, 400),
        ({"model": None}, 400),
        ({"temperature": "hot"}, 400),
        ({"model": "rstar@m", "rollouts": 1000}, 400),
        ({"shoal": {"made_up": 1}}, 400),
        ({"model": "re2@m", "stream": True, "rollouts": 7}, 400),
    ],
)
def test_what_is_wrong_is_refused_in_the_same_way(path: str, body: Any, status: int) -> None:
    reply, made = asked(path, **body)
    assert (reply.status, made) == (status, 0)
    assert reply.json["error"]["message"]


@PATHS
def test_a_body_that_is_nested_too_deeply_is_refused(path: str) -> None:
    async def main() -> list[int]:
        async with serving({"m": scripted_model(assistant)}) as client:
            deep = b"[" * 100_000 + b"]" * 100_000
            bodies = [
                b'{"model":"m","x":' + deep + b"}",
                b"",
                b"[]",
                b"{",
                b'"x"',
                b'{"model":"m","prompt":' + deep + b"}",
            ]
            return [(await client.post(path, body)).status for body in bodies]

    assert run(main()) == [400] * 6


@PATHS
def test_a_keys_limits_hold(path: str) -> None:
    only = KeySettings(settings_for("sk-a").sha256, techniques=("re_reading",))
    headers = {"authorization": "Bearer sk-a"}

    async def main() -> list[int]:
        async with serving({"m": scripted_model(assistant)}, keys={"a": only}) as client:
            names = ("m", "re2@m", "moa@m")
            body = BODIES[path]
            replies = [await client.post(path, {**body, "model": name}, headers=headers) for name in names]
            return [reply.status for reply in replies]

    assert run(main()) == [200, 200, 403]


@PATHS
def test_a_request_may_spend_less_than_the_server_allows(path: str) -> None:
    reply, made = asked(path, model="self_consistency(n=5)@m", shoal={"max_calls": 4})
    assert (reply.status, made) == (400, 0)
    assert "may take 5 calls" in reply.text


def test_every_prompt_of_a_text_completion_counts() -> None:
    reply, made = asked("/v1/completions", prompt=["a", "b", "c"], n=2, settings={"max_calls": 5})
    assert (reply.status, made) == (400, 0)
    reply, made = asked("/v1/completions", prompt=["a", "a"], n=2, settings={"max_calls": 4})
    assert (reply.status, made) == (200, 4)  # equal prompts are draws of their own


def test_a_preset_with_a_system_message_continues_no_text() -> None:
    reply, _ = asked("/v1/completions", model="careful", settings={"presets": {"careful": Preset("m", system="Hm.")}})
    assert reply.status == 400
    assert "system message" in reply.text


def test_a_technique_that_takes_long_is_never_silent() -> None:
    going_on = asyncio.Event()

    async def script(request: Request) -> str:
        await going_on.wait()
        return "Done."

    async def main() -> list[str]:
        async with serving({"m": scripted_model(script)}) as client:
            heard = []

            async def listen(path: str) -> str:
                body = {**BODIES[path], "model": "self_consistency(n=2)@m", "stream": True}
                async with client.session.post(client.url + path, json=body) as response:
                    first = await response.content.readline()
                    heard.append(first)
                    if len(heard) == len(BODIES):
                        going_on.set()
                    return (first + await response.content.read()).decode()

            return await asyncio.gather(*map(listen, BODIES))

    for told in run(main()):
        assert told.startswith(": 0 calls, 0 tokens, 2 s")
        assert "Done." in told


@PATHS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("technique", ["", "re2@"])
def test_a_client_that_goes_away_stops_the_call_upstream(path: str, technique: str, stream: bool) -> None:
    async def main() -> None:
        async with faulty_server() as upstream, serving(_models(STALLING, upstream.base_url)) as client:
            body = {**BODIES[path], "model": f"{technique}{STALLING}", "stream": stream}
            task = asyncio.ensure_future(client.post(path, body))
            await upstream.got(1)
            task.cancel()
            await upstream.hung_up(1)

    run(main())


@PATHS
@pytest.mark.parametrize("technique", ["", "re2@"])
def test_a_stream_that_breaks_off_is_a_failure_in_the_log(
    path: str, technique: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Reply:
        async with faulty_server() as upstream, serving(_models("up/[[sse-cut]]", upstream.base_url)) as client:
            return await client.post(path, {**BODIES[path], "model": f"{technique}up/[[sse-cut]]", "stream": True})

    caplog.set_level(logging.INFO, "shoal.server")
    reply = run(main())
    assert reply.status == 200
    assert "event: error" in reply.text
    (logged,) = caplog.messages
    assert logged.rpartition(" ")[2] in ("ConnectionFailed", "MalformedResponse")


def _models(name: str, url: str) -> Mapping[str, BaseModel | Applied]:
    return open_models([name], Config({"up": Endpoint(url)}), None)


def test_text_completions_pass_to_their_server_as_they_are() -> None:
    async def main() -> tuple[Reply, Reply, Reply, list[Any]]:
        async with faulty_server() as upstream, serving(_models("up/big", upstream.base_url)) as client:
            body = {"model": "big", "prompt": [[1, 2], [3]], "suffix": "x", "best_of": 3, "made_up": [1.0], "n": 2}
            whole = await client.post("/v1/completions", body)
            stream = await client.post("/v1/completions", {"model": "big", "prompt": "Hi", "stream": True})
            through = await client.post("/v1/completions", {"model": "re2@up/big", "prompt": "Hi", "made_up": 7})
            return whole, stream, through, upstream.requests

    whole, stream, through, requests = run(main())
    assert requests[0].path == "/v1/completions"
    assert requests[0].body["prompt"] == [[1, 2], [3]]
    assert (requests[0].body["suffix"], requests[0].body["best_of"], requests[0].body["made_up"]) == ("x", 3, [1.0])
    assert len(whole.json["choices"]) == 4
    assert "shoal" not in whole.json
    assert stream.events[-1] == "[DONE]"
    assert requests[2].body["made_up"] == 7
    assert through.json["choices"][0]["text"] == "answer 0.0"
    assert through.json["shoal"]["technique"] == "re_reading"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_a_server_is_asked_in_the_words_of_chat(path: str) -> None:
    async def main() -> tuple[Reply, Any]:
        async with faulty_server() as upstream, serving(_models("up/big", upstream.base_url)) as client:
            tool = {"name": "f", "description": "d"}
            more: dict[str, Any] = {
                "/v1/responses": {
                    "tools": [{"type": "function", **tool, "parameters": {}}],
                    "tool_choice": "required",
                    "reasoning": {"effort": "low"},
                    "text": {"format": {"type": "json_object"}},
                    "parallel_tool_calls": False,
                },
                "/v1/messages": {
                    "tools": [{**tool, "input_schema": {}}],
                    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
                    "output_config": {"effort": "low"},
                    "service_tier": "auto",
                    "metadata": {"user_id": "u1"},
                },
            }[path]
            reply = await client.post(path, {**BODIES[path], "model": "big", "made_up": 7, **more})
            return reply, upstream.requests[0].body

    reply, body = run(main())
    assert reply.status == 200, reply.text
    assert body["messages"] == USER
    function = {"name": "f", "description": "d", "parameters": {}}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["tool_choice"], body["parallel_tool_calls"], body["reasoning_effort"]) == ("required", False, "low")
    assert body["made_up"] == 7
    assert body.keys() & {"input", "metadata", "service_tier", "output_config", "text", "reasoning"} == set()
    if path == "/v1/responses":
        assert body["response_format"] == {"type": "json_object"}
    else:
        assert (body["user"], body["max_tokens"]) == ("u1", 50)
