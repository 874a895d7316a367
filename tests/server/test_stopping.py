"""A server in a process of its own, and the signals that end it."""

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

SERVER = """
import asyncio
import logging
import sys
from aiohttp import web
from shoal.backends.loop import run
from shoal.server.http.listening import serve

async def answer(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first;")
    try:
        await asyncio.wait_for(request.app["go on"].wait(), 20)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
    await response.write(b"last;")
    return response

async def go_on(request):
    request.app["go on"].set()
    return web.Response()

async def clean_up(app):
    print("cleaned up", flush=True)

logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("shoal").setLevel(logging.INFO)

async def main():
    app = web.Application()
    app["go on"] = asyncio.Event()
    app.router.add_get("/answer", answer)
    app.router.add_get("/go_on", go_on)
    app.on_cleanup.append(clean_up)
    return await serve(app, "127.0.0.1", 0, listening=lambda listener: print(listener.port, flush=True))

print(run(main()).name, flush=True)
"""


STOPPING = "stopping: requests under way: 1, for up to 30 s; stop again to end now"


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-W", "ignore::aiohttp.web.NotAppKeyWarning", "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def connection(port: int, path: str) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
    """A connection on which a request has been made, and its response."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request("GET", path)
        with client.getresponse() as response:
            yield client, response


def closed(client: http.client.HTTPConnection) -> bool:
    """Wait until the server closes an idle connection."""
    assert client.sock is not None
    return client.sock.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_answers_finish(number: signal.Signals) -> None:
    with (
        server() as (process, port),
        connection(port, "/answer") as (_, answer),
        socket.create_connection(("127.0.0.1", port), timeout=20) as going_on,
        connection(port, "/nowhere") as (idle, nowhere),
    ):
        assert answer.read(6) == b"first;"
        nowhere.read()
        going_on.sendall(b"GET /go_on HTTP/1.1\r\nHost: h\r\n")
        with connection(port, "/nowhere") as (_, later):
            later.read()  # by now the server has read what was sent before
        process.send_signal(number)
        assert closed(idle)
        going_on.sendall(b"\r\n")
        assert answer.read() == b"last;"
        out, _ = process.communicate(timeout=20)
        assert out.split("\n") == [STOPPING, "cleaned up", number.name, ""]
        assert process.returncode == 0


def test_a_second_signal_ends_at_once() -> None:
    with (
        server() as (process, port),
        connection(port, "/answer") as (_, answer),
        connection(port, "/nowhere") as (idle, nowhere),
    ):
        assert answer.read(6) == b"first;"
        nowhere.read()
        process.send_signal(signal.SIGTERM)
        assert closed(idle)  # the first has been seen
        process.send_signal(signal.SIGINT)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        out, _ = process.communicate(timeout=20)
        assert out.split("\n") == [STOPPING, "cancelled", "cleaned up", "SIGTERM", ""]
