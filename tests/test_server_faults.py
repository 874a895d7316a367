"""The benchmark of servers can tell a server that holds from one that does not."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from benchmarks import server_faults as faults

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def seen(talk: Talk, check: Callable[[faults.Server], Awaitable[faults.Seen]]) -> faults.Seen:
    """What the check says of a server that talks so to every client."""

    async def main() -> faults.Seen:
        served: list[asyncio.Event] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(done := asyncio.Event())
            with suppress(ConnectionError):
                await talk(reader, writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            done.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            said = await check(faults.Server("scripted", port, os.getpgid(0)))
            for done in served:
                await done.wait()
            return said

    return asyncio.run(main())


def answering(answer: bytes, *, close: bool) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)
        if not close:
            await reader.read()

    return talk


@pytest.mark.parametrize(
    ("answer", "close", "holds", "what"),
    [
        (BAD, True, True, "400, closed"),
        (BAD, False, False, "400, kept open"),
        (OK, True, False, "200, closed"),
        (b"", True, False, "no answer, closed"),
    ],
)
def test_a_malformed_request_must_be_refused_and_closed(answer: bytes, close: bool, holds: bool, what: str) -> None:
    said = seen(answering(answer, close=close), lambda s: faults.sends_malformed(s, faults.MALFORMED["no host"]))
    assert said == (holds, what)


def test_a_connection_must_be_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE_S", 0.5)
    first = faults.POST + b"Content-Length: 9\r\n\r\n"
    assert seen(answering(BAD, close=True), lambda s: faults.stays(s, first, 1)) == (
        True,
        "closed after 0 s, answered 400",
    )
    assert seen(answering(b"", close=False), lambda s: faults.stays(s, first, 1)) == (False, "open after 0.5 s")


def test_pipelined_answers_must_come_in_order() -> None:
    def reply(lengths: range) -> bytes:
        return b"".join(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%d" % (len(str(length)), length) for length in lengths
        )

    assert seen(answering(reply(range(1000)), close=True), faults.pipelines) == (True, "1000 answers")
    backwards = seen(answering(reply(range(999, -1, -1)), close=True), faults.pipelines)
    assert backwards == (False, "1000 answers, out of order")


def test_a_body_too_large_must_be_answered_413() -> None:
    too_large = BAD.replace(b"400 Bad Request", b"413 Too Large")
    assert seen(answering(too_large, close=True), faults.sends_100_mb)[0]
    assert not seen(answering(OK, close=True), faults.sends_100_mb)[0]
