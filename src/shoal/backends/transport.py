"""One HTTP seam for every remote backend: POST bytes, get a whole reply or a stream of body bytes.

Whatever goes wrong is a typed ModelError: no connection or a cut one is ConnectionFailed, a certificate that does not
verify CertificateError, time run out DeadlineExceeded, a body over the bound or no HTTP at all MalformedResponse.
Redirects are not followed. A task that is cancelled closes its connection at once, so that the server stops working.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import NamedTuple
from urllib.parse import urlsplit

from shoal.backends.connect import Origin, connect, origin_of
from shoal.backends.connection import Connection, Limits
from shoal.errors import ConnectionFailed, DeadlineExceeded

_KEPT = 30.0  # seconds: a connection idle for longer may have been forgotten by something on the way


class Reply(NamedTuple):
    """A whole reply; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Incoming:
    """A reply whose body is still coming."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self._connection.chunk():
            yield chunk

    async def whole(self) -> bytes:
        return await self._connection.whole()


class _Target:
    """A URL made ready: the origin, and the request up to its length, for whole replies and for streams."""

    __slots__ = ("head", "origin", "stream_head")  # and no repr: the head holds the key

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self.origin = origin_of(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        proxy_auth = ""
        if self.origin.proxy is not None and not self.origin.tls:
            path, proxy_auth = f"http://{parts.netloc}{path}", self.origin.proxy_auth
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{proxy_auth}{lines}content-type: application/json\r\n"
        self.head = f"{start}accept-encoding: gzip, deflate\r\ncontent-length: ".encode("latin-1")
        self.stream_head = f"{start}accept: text/event-stream\r\ncontent-length: ".encode("latin-1")


class Transport:
    """Connections, kept alive, to the servers its URLs name; at most `max_connections` in use at once.

    `headers` go with every request. Seconds: `connect_timeout` for a connection, `first_byte_timeout` from the request
    to the headers of the reply (by default as long as the whole call may take), `idle_timeout` between bytes of a
    body. `max_body` bounds the body after decompression. `endpoint` names the server in errors. It may be used on one
    event loop after another; connections do not outlive their loop. Certificates are the system's, or those of
    SSL_CERT_FILE; proxies are those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
    """

    def __init__(
        self,
        *,
        endpoint: str = "",
        headers: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
        first_byte_timeout: float = inf,
        idle_timeout: float = 120.0,
        max_body: int = 32 << 20,
        max_connections: int = 1024,
    ) -> None:
        self._endpoint = endpoint
        self._headers = {"user-agent": "shoal", **(headers or {})}
        self._connect_timeout = connect_timeout
        self._first_byte_timeout = first_byte_timeout
        self._idle_timeout = idle_timeout
        self._max_body = max_body
        self._max_connections = max_connections
        self._targets: dict[str, _Target] = {}
        self._pool: _Pool | None = None
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, body: bytes, *, timeout: float) -> Reply:
        """The whole reply, whatever its status, within `timeout` seconds."""
        target = self._target(url)
        pool = self._pool_here() or await self._new_pool()
        request = b"%s%d\r\n\r\n%s" % (target.head, len(body), body)
        connection = await self._exchange(pool, target.origin, request, timeout, eager=False)
        try:
            data = await connection.whole()
            return Reply(connection.status, connection.headers, data)
        finally:
            pool.give_back(target.origin, connection)

    @asynccontextmanager
    async def stream(self, url: str, body: bytes, *, timeout: float) -> AsyncIterator[Incoming]:
        """A reply as it comes, within `timeout` seconds in all. Leaving before its end closes the connection."""
        target = self._target(url)
        pool = self._pool_here() or await self._new_pool()
        request = b"%s%d\r\n\r\n%s" % (target.stream_head, len(body), body)
        connection = await self._exchange(pool, target.origin, request, timeout, eager=True)
        try:
            yield Incoming(connection)
        finally:
            pool.give_back(target.origin, connection)

    async def aclose(self) -> None:
        """Close all connections. Using the transport again opens new ones."""
        pool, self._pool = self._pool_here(), None
        if pool is not None:
            await pool.life.aclose()

    async def _exchange(
        self, pool: "_Pool", origin: Origin, request: bytes, timeout: float, *, eager: bool
    ) -> Connection:
        """Send the request and wait for the reply: for its headers where `eager`, for its end otherwise."""
        deadline = pool.loop.time() + timeout
        limits = Limits(deadline, self._first_byte_timeout, self._idle_timeout, self._max_body)
        kept = True  # whether a kept connection may be used
        while True:
            connection = await pool.take(origin, deadline, self._connect, kept=kept)
            try:
                connection.start(request, limits, eager=eager)
                await connection.head()
                return connection
            except ConnectionFailed:
                pool.give_back(origin, connection)
                if connection.exchanges == 1 or connection.heard:
                    raise
                kept = False  # the server was closing it when the request came: that is no failure yet
            except BaseException:
                pool.give_back(origin, connection)
                raise

    async def _connect(self, origin: Origin, deadline: float) -> Connection:
        left = deadline - asyncio.get_running_loop().time()
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        timeout = min(self._connect_timeout, left)
        return await connect(origin, self._endpoint, timeout, self._tls if origin.tls else None)

    def _target(self, url: str) -> _Target:
        target = self._targets.get(url)
        if target is None:
            target = self._targets[url] = _Target(url, self._headers)
        return target

    def _pool_here(self) -> "_Pool | None":
        pool = self._pool
        return pool if pool is not None and pool.loop is asyncio.get_running_loop() else None

    async def _new_pool(self) -> "_Pool":
        pool = self._pool = _Pool(self._max_connections, self._endpoint)
        await anext(pool.life)
        return pool


class _Pool:
    """The connections of one event loop: those in use, counted, and those kept for the next exchange."""

    def __init__(self, limit: int, endpoint: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.life = self._live()
        self._endpoint = endpoint
        self._free = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: dict[Origin, list[tuple[Connection, float]]] = {}
        self._open: set[Connection] = set()

    async def _live(self) -> AsyncGenerator[None, None]:
        """Closes the connections when the event loop ends: a loop finalises its asynchronous generators first."""
        try:
            yield
        finally:
            for connection in list(self._open):
                connection.abort()
            await asyncio.sleep(0)  # where the sockets are closed

    async def take(
        self,
        origin: Origin,
        deadline: float,
        connect: Callable[[Origin, float], Awaitable[Connection]],
        *,
        kept: bool,
    ) -> Connection:
        """A connection to use and to give back: a kept one, the latest first, or a new one."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(deadline)
        idle = self._idle.get(origin)
        while kept and idle:
            connection, since = idle.pop()
            if connection.usable and self.loop.time() - since < _KEPT:
                return connection
            connection.abort()
        try:
            connection = await connect(origin, deadline)
        except BaseException:
            self._release()
            raise
        self._open.add(connection)
        connection.when_lost = self._open.discard
        return connection

    def give_back(self, origin: Origin, connection: Connection) -> None:
        if connection.finish():
            self._idle.setdefault(origin, []).append((connection, self.loop.time()))
        self._release()

    async def _turn(self, deadline: float) -> None:
        turn = self.loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came, and too late
                self._release()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("no connection came free in time", endpoint=self._endpoint) from None
            raise

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
