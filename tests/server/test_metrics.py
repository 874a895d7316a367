"""GET /metrics and the log: what they tell, to whom, and what never stands in them."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from tests.backends.faulty_server import faulty_server
from tests.scripting import AT_ONCE, in_turn, run
from tests.server.batching import carried_out, line
from tests.server.serving import Reply, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.openai import OpenAIBackend
from shoal.errors import AuthenticationFailed
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Completion, Request
from shoal.server.access.keys import digest
from shoal.server.records import JsonLines, Record, log_to_stderr
from shoal.server.settings import KeySettings

KEY, OTHER = "shoal-" + "k" * 43, "shoal-" + "o" * 43
BEARER = {"authorization": f"Bearer {KEY}"}


def samples(reply: Reply) -> dict[tuple[str, ...], float]:
    """The values by name and label values, in the order of the labels' names."""
    assert reply.status == 200, reply.text
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the server logs."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("shoal.server")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_requests_tokens_and_calls_are_counted() -> None:
    async def main() -> dict[tuple[str, ...], float]:
        async with serving({"m": scripted_model(in_turn("one two three"))}, keys={}) as client:
            await client.chat("m", "a b")
            await client.chat("moa@m", stream=True)
            await client.chat("re2&two_turn@m")
            await client.chat("nobody-at-all")
            await client.get("/v1/nothing/here")
            await client.get("/v1/models/some-name")
            return samples(await client.get("/metrics"))

    told = run(main())
    assert told["shoal_requests_total", "/v1/chat/completions", "200"] == 3
    assert told["shoal_requests_total", "/v1/chat/completions", "404"] == 1
    assert told["shoal_requests_total", "unknown", "404"] == 1
    assert told["shoal_requests_total", "/v1/models/{name}", "404"] == 1
    assert told["shoal_request_seconds_count", "/v1/chat/completions"] == 4
    assert told["shoal_failures_total", "model_not_found"] == 2
    assert told["shoal_tokens_total", "in", "scripted", "none"] == 2
    assert told["shoal_tokens_total", "out", "scripted", "none"] == 3
    assert told["shoal_model_calls_total", "scripted", "none"] == 1
    assert told["shoal_model_calls_total", "scripted", "several"] == 3
    assert told["shoal_model_calls_total", "scripted", "mixture_of_agents"] > 1
    assert told["shoal_requests_in_flight",] == 1  # this one
    assert told["shoal_upstream_in_flight", "scripted"] == 0
    assert told["shoal_upstream_waiting", "scripted"] == 0
    assert told["shoal_upstream_requests_total", "scripted"] > 4


def test_what_clients_and_keys_say_is_in_no_label() -> None:
    async def main() -> str:
        keys = {name: KeySettings(digest(key).hex()) for name, key in (("alice", KEY), ("bob", OTHER))}
        async with serving({"m": scripted_model(lambda request: "zebra")}, keys=keys) as client:
            for name in ("canary", "re2@canary", "canary&re2@m", "canary(x=1)@m", "m"):
                await client.chat(name, "canary", headers=BEARER, user="canary")
                await client.chat(name, "canary", headers={"authorization": "Bearer canary"})
            for path in ("/canary", "/v1/canary?canary=1", "/v1/models/canary"):
                await client.get(path, headers=BEARER)
            async with client.session.request("CANARY", client.url + "/canary", headers=BEARER):
                pass
            return (await client.get("/metrics", headers={"x-api-key": OTHER})).text

    told = run(main()).lower()
    assert "shoal_model_calls_total" in told
    for word in ("canary", "alice", "bob", "zebra", KEY.lower(), digest(KEY).hex()):
        assert word not in told


def test_each_application_counts_for_itself() -> None:
    async def main() -> list[float]:
        async with (
            serving({"m": scripted_model(lambda request: "x")}) as one,
            serving({"m": scripted_model(lambda request: "x")}) as other,
        ):
            await one.chat("m")
            await other.chat("m")
            name = ("shoal_requests_total", "/v1/chat/completions", "200")
            return [samples(await client.get("/metrics"))[name] for client in (one, other)]

    assert run(main()) == [1, 1]
    assert not any(name.startswith("shoal") for name in REGISTRY._names_to_collectors)


@pytest.mark.parametrize(
    ("metrics", "key", "status"),
    [
        ("key", {}, 200),
        ("key", {"models": ("m",)}, 403),
        ("key", {"models": ("m",), "metrics": True}, 200),
        ("key", {"metrics": False}, 403),
        ("key", None, 401),
        ("open", None, 200),
        ("off", {}, 404),
    ],
)
def test_who_may_read_them(metrics: str, key: dict[str, Any] | None, status: int) -> None:
    async def main() -> int:
        keys = {"a": KeySettings(digest(KEY).hex(), **(key or {}))}
        async with serving({"m": scripted_model(lambda request: "x")}, keys=keys, metrics=metrics) as client:
            return (await client.get("/metrics", headers=BEARER if key is not None else {})).status

    assert run(main()) == status


def test_failures_of_a_models_server_are_counted_retried_ones_too() -> None:
    async def main() -> dict[tuple[str, ...], float]:
        async with faulty_server() as upstream:
            base = BaseModel(OpenAIBackend("m", base_url=upstream.base_url), retry=AT_ONCE)
            async with serving({"m": base}) as client:
                assert (await client.chat("re2@m", "[[500*2]]")).status == 200
                assert (await client.chat("re2@m", "[[401]]")).status == 502
                return samples(await client.get("/metrics"))

    told = run(main())
    errors = {key[1]: value for key, value in told.items() if key[0] == "shoal_upstream_errors_total"}
    assert errors == {"ServerError": 2, "AuthenticationFailed": 1}
    assert told["shoal_failures_total", "AuthenticationFailed"] == 1


def test_who_waits_is_counted_and_who_went_away() -> None:
    async def main() -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
        asked, stays = asyncio.Event(), asyncio.Event()

        async def script(request: Request) -> str:
            asked.set()
            await stays.wait()
            return "x"

        base = scripted_model(script)
        async with serving({"m": base}) as client:
            task = asyncio.ensure_future(client.chat("m"))
            await asked.wait()
            during = samples(await client.get("/metrics"))
            task.cancel()
            while True:
                after = samples(await client.get("/metrics"))
                if after["shoal_requests_in_flight",] == 1:
                    return during, after

    during, after = run(main())
    assert during["shoal_upstream_in_flight", "scripted"] == 1
    assert during["shoal_requests_in_flight",] == 2
    assert after["shoal_requests_total", "/v1/chat/completions", "499"] == 1
    assert after["shoal_upstream_in_flight", "scripted"] == 0


# The log


def logged(lines: io.StringIO, model: str = "m", text: str = "Q?", script: Any = None, **settings: Any) -> str:
    async def main() -> None:
        base = scripted_model(script or in_turn("zebra crossing"))
        async with serving({"m": base}, **settings) as client:
            await client.chat(model, text, headers=BEARER)

    run(main())
    return lines.getvalue()


def test_one_line_a_request(lines: io.StringIO) -> None:
    keys = {"alice": KeySettings(digest(KEY).hex())}
    line = logged(lines, "re2&two_turn@m", keys=keys)
    assert line.count("\n") == 1
    words = line.split()
    assert words[0].startswith("req_")
    assert words[1:4] == ["POST", "/v1/chat/completions", "200"]
    assert words[5:9] == ["ms", "alice", "re2&two_turn@m", "3"]
    assert words[-2:][1] == "tokens"


def test_content_is_not_logged_unless_it_is_to_be(lines: io.StringIO) -> None:
    assert "zebra" not in logged(lines, text="giraffe")
    assert "giraffe" not in lines.getvalue()
    assert "zebra" in logged(lines, text="giraffe", log_content=True)
    assert lines.getvalue().count("giraffe") == 1


def test_streams_are_logged_where_content_is(lines: io.StringIO) -> None:
    async def main() -> None:
        async with serving({"m": scripted_model(in_turn("zebra crossing"))}, log_content=True) as client:
            await client.chat("m", "two\nlines", stream=True)

    run(main())
    asked, answered, line = lines.getvalue().splitlines()
    assert "asked" in asked
    assert r"two\\nlines" in asked
    assert "crossing" in answered
    assert answered.split()[0] == line.split()[0]


def test_an_error_of_our_own_is_logged_without_words_of_the_clients(lines: io.StringIO) -> None:
    async def broken(model: Model, request: Request) -> Completion:
        raise KeyError(request.text)

    async def main() -> Reply:
        async with serving({"m": apply(broken, scripted_model(lambda request: "x"))}) as client:
            return await client.chat("m", "giraffe")

    reply = run(main())
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert "failed: KeyError" in lines.getvalue()
    assert "in broken" in lines.getvalue()
    assert "giraffe" not in lines.getvalue() + reply.text


def test_no_client_can_write_a_line(lines: io.StringIO) -> None:
    async def main() -> None:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            for name in ("m\nreq_1 POST /v1 200 1 ms root", "\x1b[2J", "a b", "\N{RIGHT-TO-LEFT OVERRIDE}", "x" * 5000):
                await client.chat(name)
                await client.get(f"/{name[:100]}")
            await client.get("/v1/models?key=canary")
            await client.get("/%0d%0areq_2%20GET")

    run(main())
    text = lines.getvalue()
    assert len(text.splitlines()) == 12
    assert text.isascii()
    assert all(line.startswith("req_") and "\x1b" not in line and len(line) < 500 for line in text.splitlines())
    assert "canary" not in text


def test_no_client_can_write_a_line_where_files_cannot_be_kept(lines: io.StringIO, tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"no database " * 1000)

    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}, state=str(tmp_path)) as client:
            return await client.get("/v1/files/x%0areq_1%20GET")

    assert run(main()).status == 507
    assert "\nreq_1 GET" not in lines.getvalue()


@pytest.mark.parametrize("path", ["/playground/api/run", "/v1/batches"])
def test_no_error_of_our_own_is_logged_with_words_of_the_clients(lines: io.StringIO, tmp_path: Path, path: str) -> None:
    async def broken(model: Model, request: Request) -> Completion:
        raise KeyError(request.text)

    async def main() -> str:
        model = apply(broken, scripted_model(lambda request: "x"))
        async with serving({"m": model}, state=str(tmp_path)) as client:
            if path == "/v1/batches":
                return str(await carried_out(client, line("one", "giraffe")))
            asked = {"model": "m", "messages": [{"role": "user", "content": "giraffe"}]}
            return (await client.post(path, asked)).text

    run(main())
    assert "KeyError" in lines.getvalue()
    assert "in broken" in lines.getvalue()
    assert "giraffe" not in lines.getvalue()


def test_broken_forms_are_not_repeated_in_the_log(capsys: pytest.CaptureFixture[str], at_home: Path) -> None:
    form = b'--b\r\ncontent-disposition: form-data; name="file"; canary;\r\n\r\nx\r\n--b--\r\n'

    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}, state="state") as client:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await client.post("/v1/files", form, headers=headers)

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            log_to_stderr("json", quiet=False)
            assert run(main()).status == 400
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert warned == []
    assert [json.loads(line)["status"] for line in capsys.readouterr().err.splitlines()] == [400]


def test_json_lines(lines: io.StringIO) -> None:
    logging.getLogger("shoal.server").handlers[-1].setFormatter(JsonLines())
    (line,) = logged(lines, "re2@m").splitlines()
    entry = json.loads(line)
    assert entry["id"].startswith("req_")
    expected = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "key": "anybody", "name": "re2@m"}
    expected |= {"base": "scripted", "slugs": ["re_reading"], "calls": 1, "completion_tokens": 2, "error": ""}
    assert {name: entry[name] for name in expected} == expected
    logging.getLogger("shoal.server").warning("said %s", "so")
    other = json.loads(lines.getvalue().splitlines()[-1])
    assert (other["level"], other["message"]) == ("WARNING", "said so")


def test_a_stream_that_fails_on_its_way_is_logged_as_failed(lines: io.StringIO) -> None:
    async def main() -> Reply:
        async with faulty_server() as upstream:
            base = BaseModel(OpenAIBackend("m", base_url=upstream.base_url), retry=AT_ONCE)
            async with serving({"m": base}) as client:
                return await client.chat("re2@m", "[[sse-cut]]", stream=True)

    run(main())
    assert "ConnectionFailed" in lines.getvalue() or "MalformedResponse" in lines.getvalue()


def test_logging_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        log_to_stderr("json", quiet=False)
        logging.getLogger("shoal.server").info("%s", Record("GET", "/x"))
        logging.getLogger("aiohttp").info("no")
        assert json.loads(capsys.readouterr().err)["path"] == "/x"
        root.handlers.clear()
        log_to_stderr("text", quiet=True)
        logging.getLogger("shoal.server").info("%s", Record("GET", "/x"))
        assert capsys.readouterr().err == ""
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_what_a_refused_key_of_the_servers_own_is_called(lines: io.StringIO) -> None:
    def script(request: Request) -> str:
        raise AuthenticationFailed("401 no", endpoint="lab", status=401)

    assert "AuthenticationFailed" in logged(lines, script=script)
