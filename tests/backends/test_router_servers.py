"""A router over real servers on loopback: configuration, draws, streams, what passes through, the command line."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.backends.faulty_server import FaultyServer, faulty_server
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.affinity import Prefixes, blocks_of
from shoal.backends.config import Config, load_config
from shoal.backends.routing import Route, Routing
from shoal.cli import main
from shoal.errors import (
    BadRequest,
    ConnectionFailed,
    ContextLengthExceeded,
    MalformedResponse,
    ModelError,
    ServerError,
    UsageError,
)
from shoal.runtime.limits import Bucket, Limits, RateLimit
from shoal.runtime.model import sample, stream
from shoal.runtime.types import Completion, Delta, Request
from shoal.techniques.opening import bases, identities, open_model

TOML = """
[endpoints.lab]
base_url = "http://127.0.0.1:1/v1"
rpm = 600
max_in_flight = 5

[models.small]
endpoints = ["lab/qwen", "scripted/s.py:f"]

[models."mixed-1.5"]
affinity = false
[[models."mixed-1.5".endpoints]]
model = "lab/qwen"
weight = 3
[[models."mixed-1.5".endpoints]]
model = "lab/llama"
rpm = 500
tpm = 200_000
max_in_flight = 64
fallback = true
"""


def config(text: str = TOML) -> Config:
    Path("shoal.toml").write_text(text)
    Path("s.py").write_text("def f(request):\n    return 'from the script'\n")
    return load_config()


class TestConfiguration:
    def test_short_and_long_form(self) -> None:
        models = config().models
        assert models["small"] == Routing((Route("lab/qwen"), Route("scripted/s.py:f")))
        spare = Route("lab/llama", fallback=True, rpm=500, tpm=200_000, max_in_flight=64)
        assert models["mixed-1.5"] == Routing((Route("lab/qwen", 3), spare), affinity=False)

    def test_a_members_limits_stand_in_for_its_endpoints(self) -> None:
        model = open_model("mixed-1.5", config=config(), cache=False)
        assert isinstance(model, BaseModel)
        lab, spare = model.scheduler.members  # type: ignore[union-attr]
        assert lab.model.limits == Limits(600, None, 5)
        assert spare.model.limits == Limits(500, 200_000, 64)
        assert (lab.weight, spare.fallback) == (3, True)
        assert model.limits == Limits(600, None, 5)

    def test_a_router_stands_wherever_a_model_does(self) -> None:
        model = open_model("best_of_n(n=2)@self_consistency(n=3)@small", config=config(), cache=False)
        assert [repr(base) for base in bases(model)] == ["small"]
        assert open_model("mixture_of_agents(proposers=[small, lab/qwen])@small", config=config(), cache=False)

    def test_its_identity_is_of_its_members_in_any_order(self) -> None:
        one = identities(open_model("small", config=config(), cache=False))
        turned = config(TOML.replace('["lab/qwen", "scripted/s.py:f"]', '["scripted/s.py:f", "lab/qwen"]'))
        assert identities(open_model("small", config=turned, cache=False)) == one
        other = config(TOML.replace('["lab/qwen", ', '["lab/qwen2", '))
        assert identities(open_model("small", config=other, cache=False)) != one

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ('endpoint = ["lab/q"]', r"\[models.m\]: unknown key 'endpoint'; did you mean endpoints\?"),
            ('endpoints = ["lab/q"]\nafinity = true', r"unknown key 'afinity'; did you mean affinity\?"),
            ("endpoints = []", "endpoints is empty"),
            ("endpoints = 3", r"Expected `array`, got `int` - at `\$.endpoints`"),
            ("endpoints = [3]", r"endpoints\[0\]: must be a table"),
            ("affinity = true", "missing required field `endpoints`"),
            ('endpoints = [{ model = "lab/q", wieght = 3 }]', r"endpoints\[0\]: unknown key 'wieght'; did you mean we"),
            ("endpoints = [{ weight = 3 }]", "missing required field `model`"),
            ('endpoints = ["lab/q", { model = "lab/q" }]', "lab/q is there twice; give it a weight"),
            ('endpoints = [{ model = "lab/q", weight = 0 }]', "weight must be above 0, not 0"),
            ('endpoints = [{ model = "lab/q", rpm = -1 }]', "rpm must be above 0, not -1"),
            ('endpoints = [{ model = "lab/q", fallback = "yes" }]', "Expected `bool`, got `str`"),
        ],
    )
    def test_mistakes_are_named(self, table: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            config(f"[models.m]\n{table}\n")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("models = 3\n", r"models must be tables, \[models...\]"),
            ("[models]\nsmall = 3\n", r"\[models.small\]: must be a table"),
            ('[models.local]\nendpoints = ["lab/q"]\n', "local means something else"),
            ('[models."a/b"]\nendpoints = ["lab/q"]\n', "a model's name here is of letters, digits"),
        ],
    )
    def test_names_are_checked(self, text: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            config(text)

    @pytest.mark.parametrize(
        ("spec", "members", "said"),
        [
            ("smal", '"lab/q"', "unknown model 'smal'; did you mean small"),
            ("small", '"nowhere/q"', r"\[models.small\]: unknown model 'nowhere/q'"),
            ("small", '"lab"', r"\[models.small\]: model 'lab': expected lab/MODEL"),
            ("small", '"small"', "small is one of .models. too"),
            ("small", '"gguf"', "expected gguf/PATH"),
        ],
    )
    def test_members_are_checked_when_it_is_opened(self, spec: str, members: str, said: str) -> None:
        text = f'[endpoints.lab]\nbase_url = "http://127.0.0.1:1/v1"\n[models.small]\nendpoints = [{members}]\n'
        with pytest.raises(UsageError, match=said):
            open_model(spec, config=config(text), cache=False)

    def test_a_base_url_is_for_one_model(self) -> None:
        with pytest.raises(UsageError, match="'small' is several models; base_url is for one"):
            open_model("small", config=config(), base_url="http://127.0.0.1:1/v1")


class TestPrefixes:
    def test_only_so_much_is_remembered_and_beginnings_longest(self) -> None:
        prefixes = Prefixes(2, most=8)
        old, new = blocks_of("a" * 256 * 6), blocks_of("b" * 256 * 6)
        prefixes.note(old, 0)
        prefixes.note(new, 1)
        assert len(prefixes) == 8
        assert prefixes.warmest(new) == 0b10
        assert prefixes.warmest(old) == 0b01  # its first two blocks of six
        prefixes.note(blocks_of("c" * 256 * 8), 1)
        assert prefixes.warmest(new) == prefixes.warmest(old) == 0

    def test_the_longest_match_counts(self) -> None:
        prefixes = Prefixes(3)
        text = "".join(f"{i:256}" for i in range(10))
        prefixes.note(blocks_of(text[: 256 * 4]), 0)
        prefixes.note(blocks_of(text[: 256 * 6]), 1)
        prefixes.note(blocks_of(text[: 256 * 6]), 2)
        assert prefixes.warmest(blocks_of(text)) == 0b110
        assert prefixes.warmest(blocks_of(text[: 256 * 2] + "x" * 256 * 8)) == 0  # a fifth is too little
        assert prefixes.warmest(blocks_of("x" + text)) == 0

    def test_what_is_shorter_than_a_block_has_none(self) -> None:
        assert blocks_of("x" * 255) == []
        assert len(blocks_of("x" * 10_000_000)) == 256


def test_room_is_what_may_be_sent_at_once() -> None:
    now = 0.0

    def clock() -> float:
        return now

    tens = Bucket(600, clock)  # ten a second
    assert (tens.room(1), tens.room(5), tens.room(1000)) == (10, 2, 1)
    tens.take(10)
    assert tens.room(1) == 0
    now = 0.25
    assert tens.room(1) == 2
    slow = Bucket(6, clock)  # one in ten seconds
    assert slow.room(1) == 0 or slow.room(1) == 1
    rate = RateLimit(Limits(rpm=600, tpm=60_000), clock)
    assert rate.room(400) == 3
    assert rate.room(1) == 10
    assert RateLimit(Limits(), clock).room(10) == float("inf")


@asynccontextmanager
async def served(
    *names: str, count: int = 0, extra: str = "", **options: Any
) -> AsyncIterator[tuple[BaseModel, list[FaultyServer]]]:
    """A router over servers of the models named, one each; a name like "[[500]]" makes its server fail so."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(faulty_server()) for _ in names]
        endpoints = "".join(f'[endpoints.s{i}]\nbase_url = "{s.base_url}"\n' for i, s in enumerate(servers))
        members = ", ".join(f'"s{i}/{name}"' for i, name in enumerate(names))
        text = f"{endpoints}[models.small]\nendpoints = [{members}{extra}]\n"
        model = open_model("small", config=config(text), cache=False, retry=AT_ONCE, **options)
        assert isinstance(model, BaseModel)
        try:
            yield model, servers
        finally:
            await model.aclose()


def models_asked(server: FaultyServer) -> list[str]:
    return [request.body["model"] for request in server.requests]


class TestDraws:
    def test_two_servers_share_what_is_asked(self) -> None:
        async def main() -> None:
            async with served("a", "b") as (model, servers):
                texts = await asyncio.gather(*(sample(model, Request.of(f"{i}"), 4) for i in range(10)))
                assert [len(server.requests) for server in servers] == [5, 5]
                assert {request.body["n"] for server in servers for request in server.requests} == {4}
                assert [c.text for c in texts[0]] == [f"answer 0.{j}" for j in range(4)]
                assert set(models_asked(servers[0])) == {"a"}
                assert set(models_asked(servers[1])) == {"b"}

        run(main())

    @pytest.mark.parametrize(
        "fault", ["500", "503", "429", "close-at-once", "reset-in-body", "html", "empty-choices", "401", "quota", "404"]
    )
    def test_a_failing_server_is_not_noticed(self, fault: str) -> None:
        async def main() -> None:
            async with served(f"[[{fault}]]", "b") as (model, servers):
                for i in range(12):
                    assert (await model(Request.of(f"{i}"))).text == "answer 0.0"
                assert 1 <= len(servers[0].requests) <= 6
                assert len(servers[1].requests) == 12

        run(main())

    def test_all_failing_is_the_error_of_one_of_them(self) -> None:
        async def main() -> None:
            async with served("[[500]]", "[[500]]") as (model, servers):
                with pytest.raises(ServerError, match=r"^s[01]: 500 no"):
                    await model(Request.of("Hi"))
                assert sum(len(server.requests) for server in servers) == 6

        run(main())

    def test_a_server_that_is_not_there(self) -> None:
        async def main() -> None:
            text = '[endpoints.gone]\nbase_url = "http://127.0.0.1:9/v1"\n'
            async with served("a") as (_, servers):
                with_gone = config(
                    f'{text}[endpoints.s]\nbase_url = "{servers[0].base_url}"\n'
                    f'[models.small]\nendpoints = ["gone/c", "s/a"]\n'
                )
                model = open_model("small", config=with_gone, cache=False, retry=AT_ONCE)
                assert isinstance(model, BaseModel)
                for i in range(5):
                    await model(Request.of(f"{i}"))
                await model.aclose()
                assert len(servers[0].requests) == 5

        run(main())

    def test_a_server_that_refuses_n_is_asked_for_one_at_a_time(self) -> None:
        async def main() -> None:
            async with faulty_server() as server:
                text = f'[endpoints.s]\nbase_url = "{server.base_url}"\nmax_n = 1\n[models.m]\nendpoints = ["s/a"]\n'
                model = open_model("m", config=config(text), cache=False)
                assert isinstance(model, BaseModel)
                await sample(model, Request.of("Hi"), 3)
                await model.aclose()
                assert [request.body.get("n", 1) for request in server.requests] == [1, 1, 1]

        run(main())

    def test_an_overflow_goes_on(self) -> None:
        async def main() -> None:
            async with served("[[context]]", "b") as (model, servers):
                for i in range(4):
                    assert (await model(Request.of(f"{i}"))).text
                assert [len(server.requests) for server in servers] == [4, 4]
            async with served("[[context]]", "[[context]]") as (model, _):
                with pytest.raises(ContextLengthExceeded):
                    await model(Request.of("Hi"))

        run(main())

    def test_a_stream_that_breaks_is_not_begun_again(self) -> None:
        async def main() -> None:
            async with served("[[sse-cut]]", "b") as (model, servers):
                got = []
                with pytest.raises((ConnectionFailed, MalformedResponse)):
                    async for piece in stream(model, Request.of("Hi")):
                        got.append(piece)  # noqa: PERF401 - what came before the error is kept
                assert all(isinstance(piece, Delta) for piece in got)
                assert got
                assert servers[1].requests == []
            async with served("[[500]]", "b") as (model, servers):
                pieces = [piece async for piece in stream(model, Request.of("Hi"))]
                assert isinstance(pieces[-1], Completion)
                assert [len(server.requests) for server in servers] == [1, 1]

        run(main())

    def test_cancelling_hangs_up(self) -> None:
        async def main() -> None:
            async with served("[[stall-in-body]]") as (model, servers):
                task = asyncio.ensure_future(model(Request.of("Hi")))
                await servers[0].got(1)
                task.cancel()
                await servers[0].hung_up()

        run(main())

    def test_a_script_beside_a_server(self) -> None:
        async def main() -> None:
            async with served("[[500]]", extra=', "scripted/s.py:f"') as (model, _):
                assert (await model(Request.of("Hi"))).text == "from the script"
                assert model.relay is None  # what passes unread could never fall back on the script

        run(main())


def fields(text: str = "Hi", **others: Any) -> dict[str, Raw]:
    body = {"model": "theirs", "messages": [{"role": "user", "content": text}], **others}
    return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, Raw])


class TestRelay:
    def test_each_member_is_asked_for_its_own_model(self) -> None:
        async def main() -> None:
            async with served("a", "b") as (model, servers):
                assert model.relay is not None
                for i in range(4):
                    passed = await model.relay.post("chat/completions", fields(f"{i}", made_up=[1]))
                    assert passed.usage.calls == 1
                assert [models_asked(server) for server in servers] == [["a", "a"], ["b", "b"]]
                assert servers[0].requests[0].body["made_up"] == [1]
                assert model.scheduler.wire_requests == 4

        run(main())

    def test_a_failing_server_is_not_noticed(self) -> None:
        async def main() -> None:
            async with served("[[500]]", "b") as (model, servers):
                assert model.relay is not None
                for i in range(6):
                    assert b"answer" in (await model.relay.post("chat/completions", fields(f"{i}"))).body
                    async with model.relay.stream("chat/completions", fields(f"{i}", stream=True)) as passing:
                        assert b"[DONE]" in b"".join([chunk async for chunk in passing.chunks()])
                assert [len(server.requests) for server in servers] == [3, 12]

        run(main())

    def test_a_bad_request_comes_back_at_once(self) -> None:
        async def main() -> None:
            async with served("a", "b") as (model, servers):
                assert model.relay is not None
                with pytest.raises(BadRequest, match="400"):
                    await model.relay.post("chat/completions", fields("[[400]]"))
                assert sum(len(server.requests) for server in servers) == 1

        run(main())

    def test_a_stream_that_breaks_counts_against_its_server_and_is_not_begun_again(self) -> None:
        async def main() -> None:
            async with served("[[sse-cut]]", "b") as (model, servers):
                assert model.relay is not None
                broken = 0
                for i in range(12):
                    try:
                        async with model.relay.stream("chat/completions", fields(f"{i}", stream=True)) as passing:
                            async for _ in passing.chunks():
                                pass
                    except ModelError:
                        broken += 1
                assert [len(server.requests) for server in servers] == [3, 9]
                assert broken == 3

        run(main())

    def test_leaving_a_stream_hangs_up_and_makes_room(self) -> None:
        async def main() -> None:
            async with served("[[sse-stall]]", "[[sse-stall]]", max_in_flight=1) as (model, servers):
                assert model.relay is not None
                for _ in range(4):
                    async with model.relay.stream("chat/completions", fields(stream=True)) as passing:
                        async for _ in passing.chunks():
                            break
                for server in servers:
                    await server.hung_up(2)
                assert sum(m.leases for m in model.scheduler.members) == 0  # type: ignore[union-attr]

        run(main())

    def test_no_server_no_relay(self) -> None:
        found = config('[models.m]\nendpoints = ["scripted/s.py:f"]\n')
        model = open_model("m", config=found, cache=False)
        assert isinstance(model, BaseModel)
        assert model.relay is None


def shoal(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


class TestCommandLine:
    def test_ask_and_run_and_models(self, capsys: pytest.CaptureFixture[str]) -> None:
        config('[models.two]\nendpoints = ["scripted/s.py:f", "scripted/s.py:g"]\n')
        Path("s.py").write_text("def f(request):\n    return 'x = 4'\n\ndef g(request):\n    return '4'\n")
        assert shoal("ask", "Hi", "-m", "two", "-t", "self_consistency(n=3)") == 0
        assert "4" in capsys.readouterr().out
        Path("d.jsonl").write_text("".join(json.dumps({"prompt": f"{i}"}) + "\n" for i in range(20)))
        assert shoal("run", "d.jsonl", "-m", "two", "--json", "--no-cache") == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["finished"], summary["calls"]) == (20, 20)
        shoal("models")
        assert "two" in capsys.readouterr().out
        shoal("models", "--json")
        listed = json.loads(capsys.readouterr().out)
        assert listed["models"] == {"two": ["scripted/s.py:f", "scripted/s.py:g"]}


ROWS, KILLS = 150, 6
SCRIPT = """
import asyncio, os

asked = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def answering(name):
    async def answer(request):
        os.write(asked, f"{request.text} {request.sample} {name}\\n".encode())
        await asyncio.sleep(0.001)
        return f"The answer is {len(request.text) + request.sample[0] % 3}."
    return answer

a, b = answering("a"), answering("b")
"""


def asked_so_far() -> list[tuple[str, str]]:
    lines = Path("asked").read_text().splitlines() if Path("asked").exists() else []
    return [(line.rsplit(" ", 1)[0], line.rsplit(" ", 1)[1]) for line in lines]


@pytest.mark.timeout(180)
def test_killed_at_random_moments_a_run_over_several_ends_as_one(tmp_path: Path) -> None:
    def routed(members: str) -> None:
        Path("shoal.toml").write_text(f"[models.two]\nendpoints = [{members}]\n")

    def command(directory: str) -> list[str]:
        what = ["run", "d.jsonl", "-p", "{q}", "-m", "two", "-t", "self_consistency(n=3)", "--no-cache", "--quiet"]
        return [sys.executable, "-m", "shoal", *what, "--max-in-flight", "8", "--run-dir", directory]

    Path("s.py").write_text(SCRIPT)
    Path("d.jsonl").write_text("".join(json.dumps({"q": f"question {i:03}"}) + "\n" for i in range(ROWS)))
    routed('"scripted/s.py:a", "scripted/s.py:b"')
    subprocess.run(command("whole"), check=True)
    assert len(asked_so_far()) == 3 * ROWS
    Path("asked").unlink()
    chance = random.Random(7)
    killed = 0
    for i in range(KILLS):
        # A resumed run may list its members in another order, and weigh them otherwise.
        routed(
            '"scripted/s.py:a", "scripted/s.py:b"'
            if i % 2
            else '{model = "scripted/s.py:b", weight = 2}, "scripted/s.py:a"'
        )
        more = len(asked_so_far()) + chance.randrange(1, 3 * ROWS // KILLS)
        process = subprocess.Popen(command("killed"))
        while process.poll() is None:
            if len(asked_so_far()) >= more:
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
        process.wait()
    subprocess.run(command("killed"), check=True)
    draws = Counter(draw for draw, _ in asked_so_far())
    assert killed >= KILLS - 1
    assert len(draws) == 3 * ROWS
    assert draws.total() - len(draws) <= killed * 8 * 3  # at most what was under way when it was killed
    assert {name for _, name in asked_so_far()} == {"a", "b"}
    assert Path("killed/output.jsonl").read_bytes() == Path("whole/output.jsonl").read_bytes()
