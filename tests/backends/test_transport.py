"""The HTTP seam under every fault a server, a network or a certificate can have."""

import asyncio
import json
import ssl
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.backends.faulty_server import FAULTS, FaultyServer, faulty_server

from shoal.backends.transport import Transport
from shoal.errors import (
    CertificateError,
    ConnectionFailed,
    DeadlineExceeded,
    MalformedResponse,
    ModelError,
    UsageError,
)

KEY = "sk-canary-1234567890"
CERTIFICATE = Path(__file__).with_name("loopback.pem")


def body(fault: str = "", **fields: Any) -> bytes:
    content = f"[[{fault}]]" if fault else "hi"
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields}).encode()


def transport(**options: Any) -> Transport:
    return Transport(endpoint="here", headers={"authorization": f"Bearer {KEY}"}, **options)


def with_server(
    use: Callable[[FaultyServer, Transport], Awaitable[Any]], *, run: Callable[[Any], Any] = uvloop.run, **options: Any
) -> Any:
    async def main() -> Any:
        async with faulty_server() as server:
            client = transport(**options)
            try:
                return await use(server, client)
            finally:
                await client.aclose()

    return run(main())


def post(fault: str = "", *, timeout: float = 5.0, **options: Any) -> Any:
    async def use(server: FaultyServer, client: Transport) -> Any:
        return await client.post(f"{server.base_url}/chat/completions", body(fault), timeout=timeout)

    return with_server(use, **options)


BREAKS = {
    "close-at-once": ConnectionFailed,
    "reset-before-headers": ConnectionFailed,
    "reset-in-headers": ConnectionFailed,
    "reset-in-body": ConnectionFailed,
    "close-in-headers": ConnectionFailed,
    "content-length-too-long": ConnectionFailed,
    "chunked-unterminated": ConnectionFailed,
    "not-http": MalformedResponse,
    "endless-headers": MalformedResponse,
    "gzip-bomb": MalformedResponse,
    "gzip-cut": MalformedResponse,
    "gzip-garbage": MalformedResponse,
    "brotli": MalformedResponse,
}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_reply_is_a_typed_error(fault: str, run: Callable[[Any], Any]) -> None:
    with pytest.raises(BREAKS[fault]) as caught:
        post(fault, run=run)
    assert caught.value.retryable
    assert caught.value.endpoint == "here"


@pytest.mark.parametrize("fault", ["", "gzip", "interim", "reset-after-body"])
def test_a_whole_reply_counts_whatever_comes_after_it(fault: str) -> None:
    reply = post(fault)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == "answer 0.0"


def test_a_body_over_the_bound_is_refused_before_it_is_all_there() -> None:
    assert len(post("huge", max_body=8 << 20).body) > 4 << 20
    with pytest.raises(MalformedResponse, match="more than 1048576 bytes"):
        post("huge", max_body=1 << 20)


def test_redirects_are_not_followed() -> None:
    assert post("redirect").status == 307


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("fault", ["stall-before-headers", "stall-after-headers", "stall-in-body", "drip"])
def test_the_deadline_is_of_the_whole_call(fault: str, run: Callable[[Any], Any]) -> None:
    async def use(server: FaultyServer, client: Transport) -> float:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.post(f"{server.base_url}/chat/completions", body(fault), timeout=0.2)
        took = time.monotonic() - start
        await server.hung_up()
        return took

    assert 0.19 <= with_server(use, run=run) < 1.0


@pytest.mark.parametrize(
    ("fault", "limit"),
    [
        ("stall-before-headers", {"first_byte_timeout": 0.1}),
        ("stall-after-headers", {"idle_timeout": 0.1}),
        ("stall-in-body", {"idle_timeout": 0.1}),
    ],
)
def test_silence_has_limits_of_its_own(fault: str, limit: dict[str, float]) -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"not a byte for 0\.1 s"):
        post(fault, timeout=30, **limit)
    assert time.monotonic() - start < 2


def test_a_body_that_comes_slowly_is_not_idle() -> None:
    async def use(server: FaultyServer, client: Transport) -> None:
        with pytest.raises(DeadlineExceeded, match="no whole reply within"):
            await client.post(f"{server.base_url}/chat/completions", body("drip"), timeout=0.5)

    with_server(use, idle_timeout=0.3)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", ["stall-before-headers", "stall-after-headers", "stall-in-body"])
def test_a_cancelled_call_closes_its_connection_at_once(fault: str, streamed: bool, run: Callable[[Any], Any]) -> None:
    async def ask(server: FaultyServer, client: Transport) -> None:
        url = f"{server.base_url}/chat/completions"
        if streamed:
            async with client.stream(url, body(fault, stream=True), timeout=30) as incoming:
                async for _ in incoming.chunks():
                    pass
        else:
            await client.post(url, body(fault), timeout=30)

    async def use(server: FaultyServer, client: Transport) -> float:
        task = asyncio.create_task(ask(server, client))
        await server.got(1)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.hung_up()
        return time.monotonic() - start

    assert with_server(use, run=run) < 0.5


def test_a_connection_is_kept_after_a_good_reply_and_only_then() -> None:
    async def use(server: FaultyServer, client: Transport) -> None:
        url = f"{server.base_url}/chat/completions"
        for _ in range(3):
            await client.post(url, body(), timeout=5)
        assert server.connections == 1
        async with client.stream(url, body(stream=True), timeout=5) as incoming:
            assert b"[DONE]" in await incoming.whole()
        await client.post(url, body("gzip"), timeout=5)
        assert server.connections == 1
        await client.post(url, body("two-replies"), timeout=5)
        await client.post(url, body(), timeout=5)
        assert server.connections == 2

    with_server(use)


def test_no_more_connections_than_allowed_and_a_place_in_the_line() -> None:
    async def use(server: FaultyServer, client: Transport) -> None:
        url = f"{server.base_url}/chat/completions"
        replies = await asyncio.gather(*(client.post(url, body(), timeout=5) for _ in range(20)))
        assert {reply.status for reply in replies} == {200}
        assert server.connections == 2
        stuck = [asyncio.create_task(client.post(url, body("stall-before-headers"), timeout=30)) for _ in range(2)]
        await server.got(22)
        with pytest.raises(DeadlineExceeded, match="no whole reply within"):
            await client.post(url, body(), timeout=0.1)
        waiting = [asyncio.create_task(client.post(url, body(), timeout=5)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        stuck[0].cancel()
        assert (await waiting[1]).status == (await waiting[2]).status == 200
        stuck[1].cancel()
        await asyncio.gather(*stuck, *waiting, return_exceptions=True)

    with_server(use, max_connections=2)


def test_one_event_loop_after_another() -> None:
    client = transport()

    async def once() -> int:
        async with faulty_server() as server:
            status = 0
            for _ in range(2):
                status = (await client.post(f"{server.base_url}/chat/completions", body(), timeout=5)).status
            assert server.connections == 1
            return status

    for run in (asyncio.run, uvloop.run, asyncio.run):
        assert run(once()) == 200


def test_a_stream_is_given_piece_by_piece() -> None:
    async def use(server: FaultyServer, client: Transport) -> None:
        url = f"{server.base_url}/chat/completions"
        got = b""
        with pytest.raises(DeadlineExceeded):
            async with client.stream(url, body("sse-stall", stream=True), timeout=0.2) as incoming:
                async for chunk in incoming.chunks():
                    got += chunk
        assert b"fish" in got

    with_server(use)


def test_nobody_there() -> None:
    async def use(server: FaultyServer, client: Transport) -> None:
        with pytest.raises(ConnectionFailed, match="refused"):
            await client.post("http://127.0.0.1:1/v1", body(), timeout=5)
        with pytest.raises(ConnectionFailed, match="not a host name"):
            await client.post(f"http://{'x' * 70}.invalid/v1", body(), timeout=5)

    for run in (asyncio.run, uvloop.run):
        with_server(use, run=run)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("said", "error"), [(b"", r"within 0\.2 s"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS")])
def test_a_server_that_does_not_speak_tls(said: bytes, error: str, run: Callable[[Any], Any]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectionFailed, match=error):
                await transport(connect_timeout=0.2).post(f"https://127.0.0.1:{port}/v1", b"{}", timeout=5)
            await asyncio.sleep(0.01)  # the server's side closes

    run(main())


def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_certificate_must_verify(run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with faulty_server(tls()) as server:
            url = f"{server.base_url}/chat/completions"
            with pytest.raises(CertificateError) as caught:
                await transport().post(url, body(), timeout=5)
            assert not caught.value.retryable
            monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
            client = transport()
            assert (await client.post(url, body(), timeout=5)).status == 200
            with pytest.raises(CertificateError, match=r"[Hh]ostname mismatch"):
                await client.post(url.replace("127.0.0.1", "localhost"), body(), timeout=5)
            await client.aclose()

    run(main())


def test_a_plain_url_goes_through_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(server: FaultyServer, client: Transport) -> None:
        monkeypatch.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{server.port}")
        assert (await client.post("http://models.invalid/v1/chat/completions", body(), timeout=5)).status == 200
        seen = server.requests[-1]
        assert seen.path == "http://models.invalid/v1/chat/completions"
        assert seen.headers["host"] == "models.invalid"
        assert seen.headers["proxy-authorization"] == "Basic dXNlcjpzM2NyZXQ="
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        await client.post(f"{server.base_url}/chat/completions", body(), timeout=5)
        assert "proxy-authorization" not in server.requests[-1].headers

    with_server(use)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_tls_url_goes_through_https_proxy_by_a_tunnel(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        where = asked[-1].split()[1].decode()
        host, _, port = where.partition(":")
        if host != "127.0.0.1":
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))

    async def main() -> None:
        async with faulty_server(tls()) as server, await asyncio.start_server(proxy, "127.0.0.1", 0) as proxying:
            monkeypatch.setenv("https_proxy", f"http://u:p@127.0.0.1:{proxying.sockets[0].getsockname()[1]}")
            monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
            client = transport()
            assert (await client.post(f"{server.base_url}/chat/completions", body(), timeout=5)).status == 200
            assert b"proxy-authorization: basic dtpw" in asked[0].lower()
            assert KEY.encode() not in asked[0]
            with pytest.raises(ConnectionFailed, match=r"refused to connect \(403\)"):
                await client.post("https://elsewhere.invalid/v1", body(), timeout=5)
            await client.aclose()
            await asyncio.sleep(0.01)  # the pipes end

    run(main())


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://user:s3cret@127.0.0.1:1")
    with pytest.raises(UsageError) as caught:
        asyncio.run(transport().post("http://127.0.0.1:1/v1", b"{}", timeout=1))
    assert "s3cret" not in str(caught.value)


def test_the_key_is_in_no_error_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [repr(transport()), str(vars(transport()).keys())]
    for fault in FAULTS:
        if not fault.startswith("sse") and FAULTS[fault]:
            try:
                post(fault, timeout=0.1)
            except ModelError as error:
                said += [repr(error), *traceback.format_exception(error)]
    monkeypatch.setenv("http_proxy", f"http://user:{KEY}@127.0.0.1:1")
    with pytest.raises(ConnectionFailed) as caught:
        asyncio.run(transport().post("http://models.invalid/v1", b"{}", timeout=1))
    said += traceback.format_exception(caught.value)
    assert KEY not in "".join(said)
