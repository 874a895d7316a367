"""Clients that send what they should not: each is told so, at once, and costs little memory."""

import asyncio
import json
import logging
import tracemalloc
from time import perf_counter
from typing import Any

import pytest
from tests.scripting import run
from tests.server.serving import Client, Reply, scripted_model, serving

from shoal.techniques import TECHNIQUES

_TURN = {"role": "user", "content": "Q?"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "re2@m", "messages": [_TURN], **fields}).encode()


def raw(**fields: bytes) -> bytes:
    """A body whose fields are these bytes, be they JSON or not."""
    told = {b"model": b'"re2@m"', b"messages": b'[{"role":"user","content":"Q?"}]'}
    told |= {name.encode(): value for name, value in fields.items()}
    return b"{" + b",".join(b'"%s":%s' % field for field in told.items()) + b"}"


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def options(**given: Any) -> bytes:
    return body(model="best_of_n@m", shoal={"options": given})


def post(data: bytes) -> Reply:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "The answer is 4.")}) as client:
            return await client.post("/v1/chat/completions", data)

    return run(main())


BODIES = {
    "not JSON": (b"{", 400, None),
    "empty": (b"", 400, None),
    "an array": (b"[]", 400, None),
    "a very deep one": (deep(100_000), 400, None),
    "a very deep field": (raw(x=deep(100_000)), 400, None),
    "a deep option": (raw(model=b'"bon@m"', shoal=b'{"options":{"judge":' + deep(900) + b"}}"), 400, None),
    "10 MB of nothing": (raw(x=b"[" + b"[]," * 3_333_333 + b"[]]"), 413, None),
    "10 MB of parts": (raw(messages=b'[{"role":"user","content":[' + b"{}," * 3_333_333 + b"{}]}]"), 413, None),
    "NaN": (raw(temperature=b"NaN"), 400, None),
    "infinity": (raw(temperature=b"1e999"), 400, "temperature"),
    "no UTF-8 in a text": (raw(messages=b'[{"role":"user","content":"\xff"}]'), 400, None),
    "no UTF-8 in an unknown field": (raw(x=b'"\xff\xfe"'), 400, None),
    "half a surrogate pair": (raw(messages=b'[{"role":"user","content":"\\ud800"}]'), 400, None),
    "an unknown role": (body(messages=[{"role": "x", "content": "a"}]), 400, "messages[0].role"),
    "no role": (body(messages=[{"content": "a"}]), 400, "messages[0]"),
    "a role of nothing": (body(messages=[{"role": "", "content": "a"}]), 400, "messages[0].role"),
    "a role that is a number": (body(messages=[{"role": 3, "content": "a"}]), 400, "messages[0].role"),
    "no content": (body(messages=[_TURN, {"role": "user"}]), 400, "messages[1].content"),
    "messages null": (body(messages=None), 400, "messages"),
    "no messages": (body(messages=[]), 400, "messages"),
    "messages of text": (body(messages=["Q?"]), 400, "messages[0]"),
    "100,000 messages": (body(messages=[_TURN] * 100_000), 400, "messages"),
    "n -1": (body(n=-1), 400, "n"),
    "n 1e6": (body(n=10**6), 400, "n"),
    "n 1.5": (body(n=1.5), 400, "n"),
    "n text": (body(n="2"), 400, "n"),
    "n huge": (body(n=10**30), 400, "n"),
    "max_tokens -1": (body(max_tokens=-1), 400, "max_tokens"),
    "max_tokens huge": (body(max_tokens=10**30), 400, "max_tokens"),
    "a huge seed": (body(seed=10**30), 400, "seed"),
    "an empty stop string": (body(stop=[""]), 400, "stop[0]"),
    "stream yes": (body(stream="yes"), 400, "stream"),
    "a strange response format": (body(response_format={"type": "x"}), 400, "response_format.type"),
    "a schema as long as a book": (
        body(response_format={"type": "json_schema", "json_schema": {"schema": {"enum": list(range(5000))}}}),
        400,
        "response_format",
    ),
    "bounds of many digits": (
        body(
            response_format={
                "type": "json_schema",
                "json_schema": {"schema": {"type": "integer", "minimum": -(10**30), "maximum": 10**30}},
            }
        ),
        400,
        "response_format",
    ),
    "patterns that make a large grammar": (
        body(
            response_format={
                "type": "json_schema",
                "json_schema": {"schema": {"anyOf": [{"type": "string", "pattern": f"^{'(a|b)*' * 15}$"}] * 2}},
            }
        ),
        400,
        "response_format",
    ),
    "a name with control characters": (body(model="re2@m\x00\x1b[31m\n"), 404, "model"),
    "1,000 techniques": (body(model="&".join(["re2"] * 1000) + "@m"), 400, "model"),
    "1,000 techniques, optillm's way": (body(model="m", optillm_approach="|".join(["re2"] * 1000)), 400, "model"),
    "250 brackets": (body(model="(" * 250 + "re2" + ")" * 250 + "@m"), 400, "model"),
    "an open quote": (body(model="bon(judging='x)@m"), 400, "model"),
    "a value that is no value": (body(model="bon(judging='a'+'a')@m"), 400, None),
    "techniques that ask techniques": (body(model="bon(judge=bon(judge=bon@m)@m)@m"), 400, "model"),
    "an option of 10 MB": (options(judge="x" * 10**7), 400, None),
    "an option of 100,000 techniques": (options(judge="re2@" * 100_000 + "m"), 400, None),
    "an option that is code": (options(judging="'a'" + "+'a'" * 300_000), 400, None),
    "100,000 options": (options(**{f"o{i}": i for i in range(100_000)}), 400, None),
    "a name of 1 MB for an option": (options(**{"x" * 10**6: 1}), 400, None),
    "an unknown key of ours": (body(shoal={"x": 1}), 400, "shoal"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_at_once_and_said_where(name: str) -> None:
    data, status, param = BODIES[name]
    began = perf_counter()
    tracemalloc.start()
    try:
        reply = post(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (reply.status, reply.error["param"]) == (status, param), reply.text
    assert len(reply.text) < 2000
    assert peak < 64 << 20
    assert perf_counter() - began < 5  # tracing memory makes all slower by some times


_VALUES: tuple[Any, ...] = (-1, 0, 1, 10**18, 1e308, "nan", "inf", "x", "", None, True, [], [1], ["m"], {"a": 1})


@pytest.mark.parametrize("slug", TECHNIQUES)
def test_no_value_of_an_option_is_an_error_of_ours(slug: str) -> None:
    async def main() -> list[tuple[str, Any, Reply]]:
        replies = []
        async with serving({"m": scripted_model(lambda request: "The answer is 4.")}) as client:
            for option in TECHNIQUES[slug].options:
                for value in _VALUES:
                    shoal = {"options": {option: value}}
                    replies.append((option, value, await client.chat(f"{slug}@m", shoal=shoal)))
        return replies

    for option, value, reply in run(main()):
        # 429: it would cost more than a request may; 502: the scripted answer does not suit the technique
        assert reply.status in (200, 400, 404, 429, 502), f"{option}={value!r}: {reply.text}"
        assert reply.status == 200 or reply.error["message"]


def test_a_body_over_the_limit_is_read_no_further() -> None:
    async def main() -> tuple[bytes, int]:
        async with serving({"m": scripted_model(lambda request: "x")}, max_body=1 << 20) as client:
            port = int(client.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(head + b"Content-Length: 100000000\r\n\r\n")
            sent = 0
            status = asyncio.ensure_future(reader.readline())
            while not status.done() and sent < 100_000_000:
                writer.write(b"[" * (1 << 16))
                sent += 1 << 16
                await asyncio.wait([status, asyncio.ensure_future(writer.drain())], return_when="FIRST_COMPLETED")
                await asyncio.sleep(0)
            writer.transport.abort()
            return await status, sent

    status, sent = run(main())
    assert b"413" in status
    assert sent < 16 << 20  # the limit, and what lies in buffers of sockets


def test_a_path_writes_no_lines_of_its_own_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(client: Client) -> None:
        await client.get("/v1/models/x%0aFAKE%20LINE%1b[31m")

    async def main() -> None:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            await ask(client)

    with caplog.at_level(logging.INFO, "shoal.server"):
        run(main())
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().isprintable()


@pytest.mark.parametrize(
    ("encoding", "status", "code"),
    [(b"gzip", 400, "bad_http"), (b"identity", 413, "body_too_large")],
    ids=["not as encoded", "more than may be"],
)
def test_a_body_that_turns_out_wrong_is_the_clients_error(
    encoding: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> bytes:
        async with serving({"m": scripted_model(lambda request: "x")}, max_body=1000) as client:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            writer.write(
                head + b"Connection: close\r\nContent-Encoding: %s\r\nTransfer-Encoding: chunked\r\n" % encoding
            )
            writer.write(b"Expect: 100-continue\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")  # by now the server waits for the body
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n0\r\n\r\n")
            told = await reader.read()
            writer.close()
            return told

    caplog.set_level(logging.INFO, "shoal.server")
    head, _, answer = run(main()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer)["error"]["code"] == code
    (logged,) = caplog.messages
    assert f" {status} " in logged
    assert logged.endswith(code)
