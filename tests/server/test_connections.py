"""What the server does to clients that are malformed, slow, greedy or gone: raw sockets, limits scaled down."""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import uvloop
from aiohttp import web

from shoal.errors import UsageError
from shoal.server.http.connections import ConnectionLimits
from shoal.server.http.listening import Listener, listen

PATIENCE_S = 20  # longer than anything here takes: a test that waits so long has failed
QUICK = ConnectionLimits(header_s=0.3, body_s=0.3, idle_s=1, stall_s=0.3, linger_s=0.1, drain_s=PATIENCE_S)
DEFAULTS = ConnectionLimits()
CHUNK = b"x" * 16_384
Test = Callable[[], Awaitable[None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def within_patience() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await test()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(within_patience())

    return run


class Watched:
    """An application whose handlers tell how far they are."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.slots = asyncio.Semaphore(0)
        self.written = 0
        self.transport: asyncio.Transport | None = None
        self.go_on = asyncio.Event()
        self.app = web.Application(client_max_size=100_000)
        self.app.router.add_route("*", "/echo", self.echo)
        self.app.router.add_post("/broken", self.broken)
        self.app.router.add_get("/parting", self.parting)
        self.app.router.add_post("/shielded", self.shielded)
        for name in ("queued", "first_token", "mid_stream", "whole", "endless", "big", "finishing", "half"):
            self.app.router.add_get(f"/{name}", self.watched(getattr(self, name)))

    def watched(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        async def watched(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except asyncio.CancelledError:
                self.events.put_nowait("cancelled")
                raise

        return watched

    async def echo(self, request: web.Request) -> web.Response:
        return web.json_response({"bytes": len(await request.read())})

    async def shielded(self, request: web.Request) -> web.Response:
        try:
            return await self.echo(request)
        except Exception:  # noqa: BLE001 - as middlewares of applications do
            return web.Response(status=500)

    async def broken(self, request: web.Request) -> web.Response:
        raise RuntimeError(request.headers["Authorization"])

    async def parting(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()  # as where a client goes away just before the next write
        await response.write(b"x" * 100)
        return response

    async def queued(self, request: web.Request) -> web.StreamResponse:
        self.events.put_nowait("started")
        async with self.slots:
            raise AssertionError("there is no slot")

    async def first_token(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.events.put_nowait("started")
        await asyncio.Event().wait()
        return response

    async def mid_stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        self.events.put_nowait("started")
        await asyncio.Event().wait()
        return response

    async def whole(self, request: web.Request) -> web.StreamResponse:
        self.events.put_nowait("started")
        await asyncio.Event().wait()
        return web.Response()

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.transport = request.transport
        self.events.put_nowait("started")
        while True:
            await response.write(CHUNK)
            self.written += len(CHUNK)

    async def big(self, request: web.Request) -> web.StreamResponse:
        self.events.put_nowait("started")
        return web.Response(body=b"x" * 30_000_000)

    async def finishing(self, request: web.Request) -> web.StreamResponse:
        self.events.put_nowait("started")
        await self.go_on.wait()
        return web.json_response({"finished": True})

    async def half(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first;")
        self.events.put_nowait("started")
        await self.go_on.wait()
        await response.write(b"last;")
        return response


class Client(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Everything until the server closes; what came before it broke the connection, if it did."""
        received = bytearray()
        with suppress(ConnectionError):
            while data := await self.reader.read(1 << 16):
                received += data
        return bytes(received)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, bytes]:
        """The status and body of one answer that has a Content-Length."""
        head = await self.head()
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, head
        return int(head.split()[1]), await self.reader.readexactly(int(length[1]))


class Server(NamedTuple):
    """A listening server, its application, and the clients connected to it."""

    listener: Listener
    watched: Watched
    clients: list[Client]

    async def connect(self, receive_bytes: int | None = None) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.listener.port))
        except OSError:
            sock.close()
            raise
        client = Client(*await asyncio.open_connection(sock=sock, limit=1 << 16))
        self.clients.append(client)
        return client

    async def happened(self, *events: str) -> None:
        for event in events:
            assert await self.watched.events.get() == event


@asynccontextmanager
async def served(limits: ConnectionLimits = DEFAULTS) -> AsyncIterator[Server]:
    watched = Watched()
    listener = await listen(watched.app, "127.0.0.1", 0, limits)
    server = Server(listener, watched, [])
    try:
        yield server
    finally:
        await listener.close()
        for client in server.clients:
            client.writer.close()
            with suppress(ConnectionError):
                await client.writer.wait_closed()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def error_in(answer: bytes, status: int) -> dict[str, Any]:
    """The error of an answer of that status which ends its connection, of the OpenAI API's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.[01] %d " % status, head), answer[:200]
    assert b"connection: close" in head.lower()
    assert b"content-type: application/json" in head.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    return error


POST = b"POST /echo HTTP/1.1\r\nHost: h\r\n"
MALFORMED = {
    "content-length and transfer-encoding": POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /whole HTTP/1.1\r\nHost: h\r\n\r\n",
    "two content-lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal content-lengths": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "signed content-length": POST + b"Content-Length: +5\r\n\r\nabcde",
    "negative content-length": POST + b"Content-Length: -5\r\n\r\nabcde",
    "content-length that is no number": POST + b"Content-Length: 5x\r\n\r\nabcde",
    "bare line feeds": b"POST /echo HTTP/1.1\nHost: h\nContent-Length: 0\n\n",
    "folded header": POST + b"X-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "NUL in a header": POST + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 0\r\n\r\n",
    "header without a name": POST + b": a\r\nContent-Length: 0\r\n\r\n",
    "no host": b"POST /echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": POST + b"Host: other\r\nContent-Length: 0\r\n\r\n",
    "unknown transfer-encoding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunk size out of range": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk size that is no number": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "header of 100 KB": POST + b"X-A: " + b"a" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "line of 9 KB": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "5,000 headers": POST + b"".join(b"X-%d: a\r\n" % i for i in range(5_000)) + b"Content-Length: 0\r\n\r\n",
    "101 headers": POST + b"".join(b"X-%d: a\r\n" % i for i in range(99)) + b"Content-Length: 0\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "gzip that is not": POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_answered_400_and_closed(
    request_bytes: bytes, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(request_bytes)
            error = error_in(await client.rest(), 400)
            assert error["code"] == "bad_http"
            assert server.watched.events.empty()  # a request smuggled behind it was not answered
        assert not caplog.records  # it is no error of the server's

    run(test)


def test_a_malformed_body_is_the_clients_fault_whatever_the_application_makes_of_it(run: Any) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(MALFORMED["chunk longer than its size"].replace(b"/echo", b"/shielded"))
            assert error_in(await client.rest(), 400)["code"] == "bad_http"

    run(test)


def test_what_is_malformed_is_neither_repeated_nor_logged(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(POST + b"Authorization: sk-secret\x00\r\n\r\n")
            answer = await client.rest()
            error_in(answer, 400)
            assert b"sk-secret" not in answer
            assert not caplog.records

    run(test)


def test_headers_too_large_together_are_answered_400(run: Any) -> None:
    whole = POST + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 8_000) for i in range(5)) + b"Content-Length: 0\r\n\r\n"

    async def test() -> None:
        async with served() as server:
            for request_bytes in (whole, whole[:-4]):
                client = await server.connect()
                client.send(request_bytes)
                assert error_in(await client.rest(), 400)["message"] == "the headers are more than 32768 bytes"

    run(test)


def test_the_largest_request_allowed_is_answered(run: Any) -> None:
    filler = b"".join(b"X-%d: %s\r\n" % (i, b"a" * (3_900 if i < 8 else 1)) for i in range(97))

    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(POST + filler + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000)
            assert await client.answer() == (200, b'{"bytes": 100000}')

    run(test)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 100001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"], ids=["length", "chunked"]
)
def test_a_body_too_large_is_answered_413_and_closed(head: bytes, run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            client = await server.connect()
            client.send(POST + head + b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            if b"chunked" in head:
                client.send((b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 4)
            assert error_in(await client.rest(), 413)["code"] == "body_too_large"

    run(test)


def test_a_client_that_asks_before_it_sends_a_body_is_told_to_go_on(run: Any) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 100 Continue")
            client.send(b"abc")
            assert await client.answer() == (200, b'{"bytes": 3}')

    run(test)


def test_a_body_that_was_not_read_is_dropped_and_the_connection_kept(run: Any) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(b"POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n" + b"x" * 10_000)
            assert (await client.answer())[0] == 404
            client.send(b"x" * 80_000)
            client.send(get("/echo"))
            assert await client.answer() == (200, b'{"bytes": 0}')

    run(test)


def test_a_bomb_of_gzip_is_stopped_at_the_size_of_a_body(run: Any) -> None:
    bomb = gzip.compress(bytes(50_000_000))

    async def test() -> None:
        async with served(QUICK) as server:
            client = await server.connect()
            client.send(POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
            assert error_in(await client.rest(), 413)["code"] == "body_too_large"

    run(test)


def test_errors_of_the_router_and_of_handlers_have_the_form_of_the_api(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(get("/nowhere"))
            status, body = await client.answer()
            assert (status, json.loads(body)["error"]["code"]) == (404, "http_404")
            client.send(b"DELETE /whole HTTP/1.1\r\nHost: h\r\n\r\n")
            head = await client.head()
            assert b" 405 " in head
            assert b"Allow: GET" in head
            client = await server.connect()
            client.send(b"POST /broken HTTP/1.1\r\nHost: h\r\nAuthorization: sk-secret\r\nContent-Length: 0\r\n\r\n")
            error = error_in(await client.rest(), 500)
            assert error["code"] == "internal_error"
            assert "sk-secret" not in error["message"]
        assert "RuntimeError in the answer to POST /broken\n" in caplog.text
        assert "in broken" in caplog.text
        assert "sk-secret" not in caplog.text

    run(test)


def test_a_client_that_is_gone_at_the_next_write_is_no_error_of_the_servers(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(get("/parting"))
            await client.rest()
        assert not caplog.records

    run(test)


SLOW = {
    "nothing sent": (b"", None),
    "part of the headers": (b"GET /whole HTTP/1.1\r\nHost: h\r\nX-A", 408),
    "part of the body": (POST + b"Content-Length: 10\r\n\r\nabc", 408),
    "part of a chunked body": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
}


@pytest.mark.parametrize(("sent", "status"), SLOW.values(), ids=SLOW.keys())
def test_a_client_that_never_ends_its_request_is_closed(sent: bytes, status: int | None, run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            client = await server.connect()
            client.send(sent)
            answer = await client.rest()
            if status is None:
                assert answer == b""
            else:
                assert error_in(answer, status)["code"] == "request_timeout"

    run(test)


@pytest.mark.parametrize("after", [b"GET /echo HTTP/1.1\r\n", POST + b"Content-Length: 10000\r\n\r\n"])
def test_a_byte_now_and_then_does_not_put_a_deadline_off(after: bytes, run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            client = await server.connect()
            client.send(after)

            async def drip() -> None:
                while not client.writer.is_closing():
                    client.send(b"a")
                    await asyncio.sleep(0.02)

            dripping = asyncio.ensure_future(drip())
            error_in(await client.rest(), 408)
            dripping.cancel()

    run(test)


def test_a_further_request_has_its_own_deadline_and_idle_connections_are_closed(run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            slow, idle = await server.connect(), await server.connect()
            for client in (slow, idle):
                client.send(get("/echo"))
                assert (await client.answer())[0] == 200
            slow.send(b"GET /echo HT")
            error_in(await slow.rest(), 408)
            assert await idle.rest() == b""

    run(test)


def test_a_long_answer_is_not_cut_by_the_deadlines_of_requests(run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            long, idle = await server.connect(), await server.connect()
            long.send(get("/finishing"))
            await server.happened("started")
            for _ in range(2):  # two deadlines pass
                idle = await server.connect()
                await idle.rest()
            server.watched.go_on.set()
            assert await long.answer() == (200, b'{"finished": true}')

    run(test)


def test_a_reader_that_takes_nothing_is_cut_and_little_is_kept_for_it(run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            client = await server.connect(receive_bytes=4096)
            client.send(get("/endless"))
            await server.happened("started")
            transport = server.watched.transport
            assert transport is not None
            most = 0
            while server.watched.events.empty():
                most = max(most, transport.get_write_buffer_size())
                await asyncio.sleep(0)
            await server.happened("cancelled")
            assert 0 < most <= QUICK.buffered_bytes
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                assert server.watched.written < 1_000_000  # nor has the kernel taken megabytes

    run(test)


def test_a_reader_that_takes_nothing_of_one_large_answer_is_cut(run: Any) -> None:
    async def test() -> None:
        async with served(QUICK) as server:
            client = await server.connect(receive_bytes=4096)
            client.send(get("/big"))
            await server.happened("started")
            while server.listener.open_connections:
                await asyncio.sleep(0)

    run(test)


def test_a_slow_reader_gets_all_of_its_answer(run: Any) -> None:
    async def test() -> None:
        async with served(ConnectionLimits(stall_s=0.5)) as server:
            client = await server.connect()
            client.send(get("/big"))
            await client.head()
            taken = 0
            while taken < 30_000_000:
                taken += len(await client.reader.read(200_000))
                await asyncio.sleep(0.002)
            assert taken == 30_000_000

    run(test)


@pytest.mark.parametrize("path", ["/queued", "/first_token", "/mid_stream", "/whole"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_away_cancels_what_answers_it(path: str, reset: bool, run: Any) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            client.send(get(path))
            await server.happened("started")
            if reset:
                client.writer.transport.abort()
            else:
                client.writer.close()
            await server.happened("cancelled")

    run(test)


def test_a_thousand_pipelined_requests_are_answered_in_order(run: Any) -> None:
    async def test() -> None:
        async with served() as server:
            client = await server.connect()
            for length in range(1000):
                client.send(POST + b"Content-Length: %d\r\n\r\n" % length + b"x" * length)
            for length in range(1000):
                assert await client.answer() == (200, b'{"bytes": %d}' % length)

    run(test)


def test_connections_beyond_the_limit_are_told_so_and_the_others_served(run: Any) -> None:
    async def test() -> None:
        async with served(ConnectionLimits(connections=3)) as server:
            kept = [await server.connect() for _ in range(3)]
            for client in kept:
                client.send(get("/echo"))
                assert (await client.answer())[0] == 200
            refused = [await server.connect() for _ in range(20)]
            for client in refused:
                answer = await client.rest()
                assert error_in(answer, 503)["code"] == "too_many_connections"
                assert b"\r\nRetry-After: 1\r\n" in answer
            kept[0].send(get("/echo"))
            assert (await kept[0].answer())[0] == 200
            kept[1].writer.close()
            while server.listener.open_connections == 3:
                await asyncio.sleep(0)
            fresh = await server.connect()
            fresh.send(get("/echo"))
            assert (await fresh.answer())[0] == 200

    run(test)


def test_draining_finishes_what_is_under_way_and_closes_idle_connections(run: Any) -> None:
    async def test() -> None:
        async with served(ConnectionLimits(drain_s=PATIENCE_S)) as server:
            idle, whole, stream, receiving = [await server.connect() for _ in range(4)]
            whole.send(get("/finishing"))
            stream.send(get("/half"))
            receiving.send(POST)
            await server.happened("started", "started")
            idle.send(get("/echo"))
            await idle.answer()  # by now the server has read what was sent before
            draining = asyncio.ensure_future(server.listener.drain())
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await server.connect()
            assert not draining.done()
            server.watched.go_on.set()
            assert b"connection: close" in (await whole.head()).lower()
            assert await whole.rest() == b'{"finished": true}'
            assert b"last;" in await stream.rest()
            receiving.send(b"Content-Length: 3\r\n\r\nabc")
            assert (await receiving.answer()) == (200, b'{"bytes": 3}')
            assert await receiving.rest() == b""
            await draining

    run(test)


def test_draining_ends_when_its_time_is_up(run: Any) -> None:
    async def test() -> None:
        async with served(ConnectionLimits(drain_s=0.2)) as server:
            clients = [await server.connect() for _ in range(3)]
            for client, path in zip(clients, ("/queued", "/mid_stream", "/endless"), strict=True):
                client.send(get(path))
            await server.happened("started", "started", "started")
            await server.listener.drain()
            await server.happened("cancelled", "cancelled", "cancelled")

    run(test)


def test_an_address_that_is_taken_is_one_clear_error(run: Any) -> None:
    async def test() -> None:
        async with served() as server:
            port = server.listener.port
            with pytest.raises(UsageError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use; "):
                await listen(web.Application(), "127.0.0.1", port)

    run(test)
