"""One request may become many calls, and never more than it was said beforehand and than it may spend."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from tests.scripting import run
from tests.server.serving import Client, Reply, running, scripted_model, serving
from tests.server.upstreams import said, upstream

from shoal.backends.scripted import Script
from shoal.errors import ShoalError
from shoal.runtime.budget import Budget
from shoal.runtime.types import Completion, Request, Usage
from shoal.server.app import create_app
from shoal.server.limits import refuse_dear
from shoal.server.names import Names
from shoal.server.refusals import Refusal
from shoal.server.settings import Settings
from shoal.techniques import TECHNIQUES
from shoal.techniques.bounds import bound

MOST = 40
EXTREME: dict[type, list[Any]] = {
    bool: [True, False],
    int: [-1, 0, 1, 2, 5, 9, 33, 10**9, 10**30],
    float: [-1.0, 0.0, 0.5, 1e300, "nan", "inf", "-inf"],
    str: ["", "x", "none", "judge", "score", "tournament", "pairwise", "select", "agreement", "python", "smt", "{{n}}"],
    type(None): ["m", ["m"] * 9, [], "re2@m", "bon(n=3)@m", "0.9", "all", "majority", "nobody"],
}


def plausible(request: Request) -> str:
    """Goes on with anything, and never agrees with itself."""
    listed = "\n".join(f"{i}. Look at {request.sample} and {i}." for i in range(1, 8))
    return f"{listed}\nScore: 3\n```python\nassert f({len(request.text)}) == 1\n```\nThe answer is {request.sample}."


SCRIPTS: dict[str, Script] = {"plausible": plausible, "garbage": lambda request: "}{ `` Score: -1e999 \\boxed{"}


def options_of(slug: str) -> list[dict[str, Any]]:
    """Every option at its extremes, alone and with all numbers at once."""
    defaults = TECHNIQUES[slug].options
    alone = [{name: value} for name, default in defaults.items() for value in EXTREME[type(default)]]
    numbers = [name for name, default in defaults.items() if type(default) is int]
    together = [dict.fromkeys(numbers, value) for value in (2, 3, 6, 200)]
    return [{}, *alone, *together]


def size(value: Any) -> int:
    return value if isinstance(value, int) else 0


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("slug", TECHNIQUES)
def test_no_technique_makes_more_calls_than_it_is_said_to(
    slug: str, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(options: dict[str, Any]) -> tuple[Reply, int, int | None]:
        base = scripted_model(SCRIPTS[script])
        names = Names({"m": base}, {})
        async with serving({"m": base}, max_calls=MOST) as client:
            reply = await client.chat(f"{slug}@m", shoal={"options": options})
        try:
            most = bound(names.resolve(f"{slug}@m", options=options).model).calls
        except ShoalError:  # then the request is refused as well, which is seen to below
            most = None
        return reply, len(base.backend.requests), most  # type: ignore[attr-defined]

    async def main() -> None:
        for options in options_of(slug):
            reply, calls, most = await ask(options)
            about = f"{options}: {calls} calls, {reply.text[:300]}"
            assert reply.status in (200, 400, 404, 429, 502), about
            assert calls <= MOST, about
            if most is None or most > MOST:
                assert calls == 0, about
                assert reply.status in (400, 404), about
            else:
                assert calls <= max(most, 0), about
            if most is not None and most > MOST and max(map(size, options.values()), default=0) <= 1000:
                assert reply.error["code"] in ("budget_exceeded", "sandbox_unavailable"), about

    run(main())


@pytest.mark.parametrize(
    "model",
    [
        "critique(rounds=3)@moa@m",
        "moa&critique(rounds=5)&bon(n=4)@m",
        "moa|critique(rounds=5)|bon(n=4)@m",
        "(re2@bon(n=3))&critique@m",
        "bon(n=3, judge=self_consistency(n=9)@m)@m",
        "moa(width=2, layers=2, proposers=[bon@m, re2@m], aggregator=critique@m)@m",
        "self_consistency(n=3)@self_consistency(n=3)@self_consistency(n=3)@m",
    ],
)
def test_techniques_on_techniques_stay_within_what_was_said(model: str) -> None:
    async def main() -> None:
        base = scripted_model(plausible)
        most = bound(Names({"m": base}, {}).resolve(model).model).calls
        async with serving({"m": base}, max_calls=1000) as client:
            assert (await client.chat(model)).status in (200, 502)
            assert 1 < len(base.backend.requests) <= most  # type: ignore[attr-defined]
        async with serving({"m": base}, max_calls=most - 1) as client:
            base.backend.requests.clear()  # type: ignore[attr-defined]
            reply = await client.chat(model)
        assert (reply.status, reply.error["code"]) == (400, "budget_exceeded")
        assert f"may take {most} calls" in reply.error["message"]
        assert not base.backend.requests  # type: ignore[attr-defined]

    run(main())


def asked(script: Any = plausible, model: str = "critique(rounds=3)@m", **more: Any) -> tuple[Reply, int]:
    body = more.pop("body", {})

    async def main() -> tuple[Reply, int]:
        base = scripted_model(script)
        async with serving({"m": base}, **more) as client:
            return await client.chat(model, **body), len(base.backend.requests)  # type: ignore[attr-defined]

    return run(main())


def heavy(_: Request) -> Completion:
    return Completion("a draft", usage=Usage(10, 400, 1))


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_that_are_spent_end_a_request_and_are_told(stream: bool) -> None:
    reply, calls = asked(heavy, max_tokens=1000, body={"stream": stream})
    assert (reply.status, calls) == (429, 2)
    assert reply.error["type"] == reply.error["code"] == "budget_exceeded"
    assert "the budget of 1000 tokens" in reply.error["message"]
    assert "this request has spent 2 calls, 820 tokens, 0.0 s" in reply.error["message"]
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("model", ["m", "two_turn@m"])
@pytest.mark.parametrize("stream", [False, True])
def test_seconds_that_are_spent_end_a_request(model: str, stream: bool) -> None:
    gone = []

    async def script(_: Request) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gone.append(True)
            raise
        raise AssertionError

    reply, calls = asked(script, model, max_seconds=0.05, body={"stream": stream})
    assert (reply.status, reply.error["code"], calls, gone) == (429, "budget_exceeded", 1, [True])
    assert "the budget of 0.05 seconds is spent" in reply.error["message"]


@pytest.mark.parametrize(
    ("own", "status", "calls"),
    [
        ({"max_calls": 7}, 200, 7),
        ({"max_calls": 6}, 400, 0),
        ({"max_calls": 10**9}, 400, 0),  # the server's limit stays
        ({"max_tokens": 300}, 429, 1),
        ({"max_tokens": 10**12, "max_calls": 7}, 429, 2),
        ({"max_seconds": 1e9, "max_calls": 7, "max_tokens": 1}, 429, 0),
        ({"max_calls": 0}, 400, 0),
        ({"max_calls": -1}, 400, 0),
        ({"max_seconds": 0}, 400, 0),
        ({"max_calls": "many"}, 400, 0),
        ({"max_cost": 1}, 400, 0),
    ],
)
def test_a_body_may_ask_for_less_and_never_for_more(own: dict[str, Any], status: int, calls: int) -> None:
    limits: dict[str, Any] = {"max_calls": 6} if own.get("max_calls") == 10**9 else {}
    if "max_tokens" in own:
        limits["max_tokens"] = 1000
    script = heavy if "max_tokens" in own else (lambda request: "draft")
    reply, made = asked(script, body={"shoal": own}, **limits)
    assert (reply.status, made) == (status, calls), reply.text


def test_many_answers_count_as_many_calls() -> None:
    reply, calls = asked(model="critique(rounds=3)@m", max_calls=20, body={"n": 3})
    assert (reply.status, calls) == (400, 0)
    assert "may take 21 calls" in reply.error["message"]


# Bodies


def refused(body: dict[str, Any] | bytes, model: str = "m", **settings: Any) -> Reply:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}, **settings) as client:
            return await posted(client, body, model)

    return run(main())


async def posted(client: Client, body: dict[str, Any] | bytes, model: str) -> Reply:
    if isinstance(body, bytes):
        return await client.post("/v1/chat/completions", body)
    messages = [{"role": "user", "content": "Q?"}]
    return await client.post("/v1/chat/completions", {"model": model, "messages": messages, **body})


ASKED = b'{"model":"up/m","messages":[{"role":"user","content":"x"}],'
DEEP = b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

MANY_DIGITS = b'{"model":"moa@m","messages":[{"role":"user","content":"x"}],"shoal":{"options":{"width":%s}}}' % (
    b"9" * 5000
)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 17}, "n"),
        ({"n": 10**6}, "n"),
        ({"n": 10**30}, "n"),
        ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages"),
        ({"model": "x" * 513}, "model"),
        ({"model": "re2@" * 9 + "m"}, "model"),
        ({"model": "&".join(["re2"] * 10) + "@m"}, "model"),
        ({"model": "(" * 200 + "re2" + ")" * 200 + "@m"}, "model"),
        ({"shoal": {"technique": "&".join(["re2"] * 10)}}, "model"),
        ({"shoal": {"technique": "x" * 100_000}}, "model"),
        ({"optillm_approach": "|".join(["re2"] * 1000)}, "model"),
        ({"shoal": {"options": {"proposers": ["m"] * 100_000}}}, None),
        ({"model": f"moa(width={'9' * 400})@m"}, "model"),
        (MANY_DIGITS, None),
        (DEEP, None),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, None),
    ],
)
def test_bodies_have_limits(body: Any, param: str | None) -> None:
    reply = refused(body)
    assert reply.status == 400, reply.text
    assert param is None or reply.error["param"] == param
    assert len(reply.text) < 2000


def test_a_body_that_is_too_large_is_refused() -> None:
    reply = refused(b'{"x":"' + b"a" * 5000 + b'"}', max_body=4096)
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"n": 17}, "n", None),
        ({"n": 9, "shoal": {"max_calls": 8}}, "n", "budget_exceeded"),
        ({"max_tokens": 5001}, "max_tokens", "budget_exceeded"),
        ({"max_tokens": 1e12}, "max_tokens", "budget_exceeded"),
        ({"max_completion_tokens": 2501, "n": 2}, "max_completion_tokens", "budget_exceeded"),
        ({"max_tokens": 500, "shoal": {"max_tokens": 499}}, "max_tokens", "budget_exceeded"),
        ({"max_tokens": 1e300}, "max_tokens", "budget_exceeded"),
        ({"best_of": 17}, "best_of", None),
        ({"best_of": 1e16}, "best_of", None),
        ({"max_tokens": 500, "best_of": 11}, "max_tokens", "budget_exceeded"),
        ({"extra_body": {"n": 17}}, "n", None),
        (ASKED + b'"extra\\u005fbody": {"n": 17}}', "n", None),
        (ASKED + b'"n": 1, "extra_b\\u006fdy": {"max_tokens": 1, "\\u006e": 17}}', "n", None),
        ({"extra_body": {"n": 17, "extra_body": 1}}, "extra_body", None),
        ({"extra_body": {"extra_body": {"api_base": "http://127.0.0.1:1"}}}, "extra_body", None),
        ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages", None),
        ({"max_tokens": 5000, "n": 1}, None, None),
        ({"max_tokens": "many", "n": 1}, None, None),  # for the model's server to refuse
    ],
)
def test_what_passes_through_has_limits_too(body: Any, param: str | None, code: str | None) -> None:
    async def main() -> tuple[Reply, int]:
        async with upstream(lambda asked: said()) as up:
            settings = Settings(models=("up/m",), max_tokens=5000)
            async with running(create_app(up.config, settings=settings)) as client:
                return await posted(client, body, "up/m"), len(up.requests)

    reply, calls = run(main())
    if param is None:
        assert (reply.status, calls) == (200, 1)
        return
    assert (reply.status, calls) == (400, 0), reply.text
    assert (reply.error["param"], reply.error["code"]) == (param, code)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_technique_draws_by_itself_and_no_server_draws_more_for_it(path: str) -> None:
    async def main() -> tuple[Reply, int]:
        async with (
            upstream(lambda asked: said()) as up,
            running(create_app(up.config, settings=Settings(models=("up/m",)))) as client,
        ):
            messages = [{"role": "user", "content": "x"}]
            asked = {"model": "re2@up/m", "messages": messages, "prompt": "x", "best_of": 16}
            return await client.post(path, asked), len(up.requests)

    reply, calls = run(main())
    assert (reply.status, reply.error["param"], calls) == (400, "best_of", 0)


@pytest.mark.parametrize(
    ("prompt", "n", "allowed"),
    [("a", 4, True), (["a"] * 4, 1, True), (["a"] * 5, 1, False), ([[1, 2]] * 2, 3, False), ([1, 2, 3, 4, 5], 1, True)],
)
def test_prompts_count_as_many_calls(prompt: Any, n: int, allowed: bool) -> None:
    fields = msgspec.json.decode(msgspec.json.encode({"prompt": prompt}), type=dict[str, msgspec.Raw])
    if allowed:
        refuse_dear(fields, n, Budget(calls=4), Settings())
        return
    with pytest.raises(Refusal, match=r"this may take [56] answers") as refusal:
        refuse_dear(fields, n, Budget(calls=4), Settings())
    assert (refusal.value.param, refusal.value.code) == ("prompt", "budget_exceeded")


def test_what_passes_through_ends_with_its_seconds() -> None:
    async def main() -> list[Reply]:
        from tests.backends.faulty_server import faulty_server

        from shoal.backends.config import Config, Endpoint

        async with faulty_server() as up:
            config = Config({"up": Endpoint(up.base_url)})
            async with running(create_app(config, settings=Settings(models=("up/m",)))) as client:
                replies = []
                for fault, stream in (("stall-before-headers", False), ("sse-stall", True)):
                    replies.append(await client.chat("up/m", f"[[{fault}]]", stream=stream, shoal={"max_seconds": 0.1}))
                    await up.hung_up(len(replies))
                return replies

    whole, streamed = run(main())
    assert (whole.status, whole.error["code"]) == (429, "budget_exceeded")
    assert streamed.status == 200  # it had begun
    last = json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["code"] == "budget_exceeded"


def test_numbers_that_are_only_large_are_refused() -> None:
    """They cost no calls, and may cost memory."""
    for model in (
        "mcts(branching=1000000000)@m",
        "re2&mcts(branching=1001)@m",
        "bon(n=2, judge=mcts(branching=2000)@m)@m",
    ):
        reply, calls = asked(model=model)
        assert (reply.status, calls) == (400, 0)
        assert "at most 1000" in reply.error["message"]
