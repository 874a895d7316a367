"""What clients do to a server, each as a function of (a running server) -> (whether it held, what was seen)."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 85  # a little more than the longest time a connection may take
Seen = tuple[bool, str]


class Server(NamedTuple):
    """A running server: its port, and the process group it has to itself."""

    name: str
    port: int
    group: int

    def processes(self) -> list[list[str]]:
        """The fields of /proc/PID/stat after the name, for each process of the group."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.group and fields[0] != "Z":
                    found.append(fields)
        return found

    def cpu_s(self) -> float:
        return sum(int(f[11]) + int(f[12]) for f in self.processes()) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        return sum(int(f[21]) for f in self.processes()) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def connect(server: Server, receive_bytes: int | None = None) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    return sock


async def receive(
    sock: socket.socket, seconds: float, enough: Callable[[bytes], bool] = lambda _: False
) -> tuple[bytes, bool]:
    """What comes until it is enough, the server closes, or the time is up; and whether the server closed."""
    got, loop = bytearray(), asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            while data := await loop.sock_recv(sock, 1 << 16):
                got += data
                if enough(bytes(got)):
                    return bytes(got), False
        return bytes(got), True
    except TimeoutError:
        return bytes(got), False
    except ConnectionError:
        return bytes(got), True


def request(path: str, body: bytes | None = None) -> bytes:
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(found) and length is not None and len(body) >= int(length[1])


async def ask(server: Server, data: bytes, seconds: float = 10) -> tuple[int, bytes]:
    """Status (0: none) and body of the answer to one request on a connection of its own."""
    sock = await connect(server)
    with sock:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        answer, _ = await receive(sock, seconds, is_whole)
    return status_of(answer), answer.partition(b"\r\n\r\n")[2]


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1.\d (\d+)", answer)
    return int(found[1]) if found else 0


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether it comes to hold within the time."""
    deadline = time.perf_counter() + seconds
    while not await holds():
        if time.perf_counter() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def state(server: Server) -> dict[str, int]:
    counts: dict[str, int] = json.loads((await ask(server, request("/state")))[1])
    return counts


async def leaves(server: Server, path: str) -> Seen:
    """C1: 50 clients go away while they are being answered."""
    before = await state(server)
    socks = [await connect(server) for _ in range(50)]
    for sock in socks:
        await asyncio.get_running_loop().sock_sendall(sock, request(path))
    counted = partial(_counted, server, before, len(socks))
    if not await until(partial(counted, "started"), 10):
        return False, "not all were begun"
    left = time.perf_counter()
    for sock in socks:
        sock.close()
    await until(partial(counted, "ended"), 30)
    took, ended = time.perf_counter() - left, (await state(server))["ended"] - before["ended"]
    return took <= 1 and ended == len(socks), f"{ended} of {len(socks)} handlers ended within {took:.2f} s"


async def _counted(server: Server, before: dict[str, int], more: int, what: str) -> bool:
    return (await state(server))[what] >= before[what] + more


async def sends_100_mb(server: Server) -> Seen:
    """C2: a body of 100 MB."""
    before, loop = server.rss_mb(), asyncio.get_running_loop()
    sent, most = 0, 0.0
    with await connect(server) as sock:
        await loop.sock_sendall(sock, POST + b"Content-Length: 104857600\r\n\r\n")
        answer = asyncio.ensure_future(receive(sock, 20, is_whole))
        with suppress(ConnectionError):
            while sent < 100 and not answer.done():
                await loop.sock_sendall(sock, b"x" * (1 << 20))
                sent, most = sent + 1, max(most, server.rss_mb() - before)
        status = status_of((await answer)[0])
    return status == 413, f"answered {status or 'nothing'} when {sent} MB had been sent; memory +{most:.0f} MB"


POST = b"POST /read HTTP/1.1\r\nHost: h\r\n"
NONE = b"Content-Length: 0\r\n\r\n"
MALFORMED = {
    "content-length and transfer-encoding": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two content-lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "content-length +5": POST + b"Content-Length: +5\r\n\r\nabcde",
    "bare line feeds": POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
    "folded header": POST + b"X-A: a\r\n b\r\n" + NONE,
    "NUL in a header": POST + b"X-A: a\x00b\r\n" + NONE,
    "space before a colon": POST + b"X-A : a\r\n" + NONE,
    "no host": b"POST /read HTTP/1.1\r\n" + NONE,
    "two hosts": POST + b"Host: other\r\n" + NONE,
    "chunk size out of range": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "header of 100 KB": POST + b"X-A: " + b"a" * 100_000 + b"\r\n" + NONE,
    "5,000 headers": POST + b"".join(b"X-%d: a\r\n" % i for i in range(5_000)) + NONE,
}


async def sends_malformed(server: Server, data: bytes) -> Seen:
    """C4: framing that could mean two things, or that is too large."""
    with await connect(server) as sock:
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(sock, data)
        answer, closed = await receive(sock, 2)
    status = status_of(answer)
    return 400 <= status < 500 and closed, f"{status or 'no answer'}, {'closed' if closed else 'kept open'}"


async def stays(server: Server, first: bytes, limit_s: float, drip: bytes = b"") -> Seen:
    """C5: a client that begins and does not end, a byte a second."""
    began, loop = time.perf_counter(), asyncio.get_running_loop()
    with await connect(server) as sock:
        await loop.sock_sendall(sock, first)
        if first.endswith(b"\r\n\r\n") and b"Content-Length" not in first:
            await receive(sock, 5, is_whole)
            began = time.perf_counter()
        answer = b""
        while time.perf_counter() - began < PATIENCE_S:
            got, closed = await receive(sock, 1)
            answer += got
            if closed:
                took = time.perf_counter() - began
                return took <= limit_s + 2, f"closed after {took:.0f} s, answered {status_of(answer) or 'nothing'}"
            with suppress(ConnectionError):
                await loop.sock_sendall(sock, drip)
    return False, f"open after {PATIENCE_S} s"


def is_open(sock: socket.socket) -> bool:
    """Whether the server has not closed it, told without reading."""
    # The first byte of TCP_INFO is the state, 1 is established.
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


async def reads_nothing(server: Server) -> Seen:
    """C5: 200 clients take nothing of answers of 10 MB."""
    before, began = server.rss_mb(), time.perf_counter()
    socks = [await connect(server, receive_bytes=4096) for _ in range(200)]
    for sock in socks:
        await asyncio.get_running_loop().sock_sendall(sock, request("/big"))
    most = 0.0
    while time.perf_counter() - began < PATIENCE_S and any(map(is_open, socks)):
        most = max(most, server.rss_mb() - before)
        await asyncio.sleep(0.5)
    still, took = sum(map(is_open, socks)), time.perf_counter() - began
    for sock in socks:
        sock.close()
    ended = f"{still} open after {took:.0f} s" if still else f"all cut after {took:.0f} s"
    return not still and most < 100, f"memory +{most:.0f} MB; {ended}"


async def pipelines(server: Server) -> Seen:
    """C6: 1,000 requests at once on one connection."""
    with await connect(server) as sock:
        bodies = b"".join(request("/read", b"x" * length) for length in range(1000))
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(sock, bodies))
        answer, _ = await receive(sock, 10, lambda got: got.count(b"HTTP/1.1 200") == 1000 and got.endswith(b"999"))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    lengths = [int(n) for n in re.findall(rb"\r\n\r\n(\d+)", answer)]
    return lengths == list(
        range(1000)
    ), f"{len(lengths)} answers{'' if lengths == sorted(lengths) else ', out of order'}"


async def crowds(server: Server) -> Seen:
    """C6: 5,000 connections that stay open."""
    before = server.rss_mb()
    socks: list[socket.socket] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            while len(socks) < 5000:
                with suppress(ConnectionError):
                    socks.append(await connect(server))
    await asyncio.sleep(1)
    refused = [sock for sock in socks if not is_open(sock)]
    told = status_of((await receive(refused[0], 1))[0]) if refused else 0
    grown = server.rss_mb() - before
    for sock in socks:
        sock.close()
    served = await until(partial(_serves, server), 10)
    how = f"with {told}" if told else "without a word"
    what = f"{len(socks)} taken, {len(refused)} of them closed {how}; memory +{grown:.0f} MB"
    return told == 503 and served, f"{what}; afterwards it {'serves' if served else 'does not serve'}"


async def _serves(server: Server) -> bool:
    return (await ask(server, request("/state"), 2))[0] == 200


async def is_stopped(server: Server, lasting: Callable[[socket.socket], Awaitable[None]] | None) -> Seen:
    """SIGTERM while an answer of a second is under way, one connection is idle, and perhaps another lasts for ever."""
    loop = asyncio.get_running_loop()
    with await connect(server) as idle, await connect(server) as busy, await connect(server) as long:
        await loop.sock_sendall(idle, request("/state"))
        await receive(idle, 5, is_whole)
        if lasting is not None:
            await lasting(long)
        await loop.sock_sendall(busy, request("/second"))
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        os.kill(server.group, signal.SIGTERM)
        answer, _ = await receive(busy, 5, is_whole)
        _, idle_closed = await receive(idle, 0.1)
        gone = await until(partial(_gone, server), 45)
        took = time.perf_counter() - began
    finished = status_of(answer) == 200 and answer.endswith(b"done")
    what = f"answer {'finished' if finished else 'lost'}, idle connection {'closed' if idle_closed else 'kept'}"
    limit_s = 3 if lasting is None else 35
    ending = f"ended after {took:.1f} s" if gone else f"still running after {took:.0f} s"
    return finished and gone and took <= limit_s, f"{what}; {ending}"


async def _gone(server: Server) -> bool:
    return not server.processes()


async def slow_body(sock: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, POST + b"Content-Length: 10\r\n\r\nabc")


async def cpu_us(server: Server) -> float:
    """CPU a small chat request, on 16 kept connections, 900 each after 100 on others to warm up."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 100}]}).encode()

    async def client(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(count):
            writer.write(request("/chat", body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            assert length is not None, head
            await reader.readexactly(int(length[1]))
        writer.close()

    await asyncio.gather(*(client(100) for _ in range(16)))
    before = server.cpu_s()
    await asyncio.gather(*(client(900) for _ in range(16)))
    return (server.cpu_s() - before) / 14_400 * 1e6
