"""Listens, serves an application to its clients, and ends without cutting off the answers under way."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web

from shoal.errors import UsageError
from shoal.server.http.connections import Connection, ConnectionLimits, Open
from shoal.server.http.errors import Answering, answered

log = logging.getLogger("shoal.server")
_CLEAN_UP_S = 1.0  # what a cancelled request gets to close its calls
_SPARE_FILES = 64
_TAKEN_A_TURN = 8  # new connections
_MOST_FILES = 65_536


class Listener:
    """A server that listens on `host` and `port`; made by `listen`."""

    def __init__(self, runner: web.AppRunner, servers: Sequence[asyncio.AbstractServer], connections: Open) -> None:
        self._runner = runner
        self._servers = servers
        self._connections = connections
        self._closed = False
        self.host, self.port = servers[0].sockets[0].getsockname()[:2]  # type: ignore[attr-defined] # of every server here
        self._check()

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._connections.check(loop.time())
        self._next_check = loop.call_later(self._connections.limits.check_s, self._check)

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections.connections)

    async def drain(self) -> None:
        """Stop listening, close idle connections, give the answers under way `drain_s` seconds, and close."""
        self._stop_listening()
        if answering := self._connections.answering:
            most = f"{self._connections.limits.drain_s:g} s"
            log.info("stopping: requests under way: %d, for up to %s; stop again to end now", answering, most)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._connections.limits.drain_s):
                await self._connections.none_left()
        await self.close()

    async def close(self) -> None:
        """Break all connections, cancel what is being answered, and run the application's clean-up."""
        self._stop_listening()
        self._connections.cut()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S):
                await self._connections.none_left()
        self._next_check.cancel()
        if not self._closed:
            self._closed = True
            await self._runner.cleanup()

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._connections.end()


async def listen(app: web.Application, host: str, port: int, limits: ConnectionLimits | None = None) -> Listener:
    """Serve `app`, which must not have been started, on `host` and `port` (0: a free one). UsageError if that fails.

    A client that goes away cancels the handler that answers it.
    """
    limits = _affordable(limits or ConnectionLimits())
    connections = Open(limits)
    app.middlewares.insert(0, _followed(limits))
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_CLEAN_UP_S)
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()
    try:
        servers = [await loop.create_server(lambda: connections.accept(server), host, port, backlog=limits.connections)]
        servers += await _listening_more(servers[0], lambda: connections.accept(server), limits.connections)
    except OSError as error:
        await runner.cleanup()
        reason = error.strerror or str(error)
        if error.errno and not isinstance(error, socket.gaierror):
            reason = os.strerror(error.errno)  # the loop's own words repeat the address
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; choose another host or port") from None
    _keep_little_unsent(servers[0], limits.buffered_bytes // 4)
    return Listener(runner, servers, connections)


async def _listening_more(
    server: asyncio.AbstractServer, accept: Callable[[], asyncio.Protocol], backlog: int
) -> list[asyncio.Server]:
    """The same sockets once more, several times: uvloop takes one new connection from each in a turn of its loop."""
    loop = asyncio.get_running_loop()
    if "uvloop" not in type(loop).__module__:
        return []
    sockets: list[int] = [listening.fileno() for listening in server.sockets]  # type: ignore[attr-defined]
    return [
        await loop.create_server(accept, sock=socket.socket(fileno=os.dup(number)), backlog=backlog)
        for number in sockets
        for _ in range(_TAKEN_A_TURN - 1)
    ]


async def serve(
    app: web.Application,
    host: str,
    port: int,
    limits: ConnectionLimits | None = None,
    listening: Callable[[Listener], Any] | None = None,
) -> signal.Signals:
    """Serve `app` until SIGTERM or SIGINT, and return which it was. `listening` is called once connections are taken.

    The first signal drains (see `Listener.drain`), a second ends at once.
    """
    _raise_open_files()
    listener = await listen(app, host, port, limits)
    try:
        with _signals() as signals:
            if listening is not None:
                listening(listener)
            first = await signals.get()
            await _drain_unless_told_again(listener, signals)
    finally:
        await listener.close()
    return first


@contextmanager
def _signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """The signals to stop, as they come. On Windows none does: Ctrl-C raises KeyboardInterrupt there."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGTERM, signal.SIGINT) if sys.platform != "win32" else ()
    for number in wanted:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield signals
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


async def _drain_unless_told_again(listener: Listener, signals: asyncio.Queue[signal.Signals]) -> None:
    drained = asyncio.ensure_future(listener.drain())
    again = asyncio.ensure_future(signals.get())
    try:
        await asyncio.wait((drained, again), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (drained, again):
            task.cancel()
        await asyncio.gather(drained, again, return_exceptions=True)


def _followed(limits: ConnectionLimits) -> Any:
    """The outermost middleware: tells a connection where its request stands, and gives HTTP's errors OpenAI's form."""

    @web.middleware
    async def followed(request: web.Request, handler: Answering) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.began(request)
        try:
            response = await answered(request, handler, limits.header_bytes)
        finally:
            connection.ended()
        if request.content.exception() is not None:
            connection.read_no_more(request.content)
        if connection.ending and not response.prepared:
            response.force_close()
        return response

    return followed


def _keep_little_unsent(server: asyncio.AbstractServer, most: int) -> None:
    """Have the kernel keep no more than that for a client that takes nothing; left alone it keeps up to 4 MB."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        for listening in server.sockets:  # type: ignore[attr-defined] # of every server here
            listening.setsockopt(socket.IPPROTO_TCP, option, most)  # its connections inherit it


def _raise_open_files() -> None:
    """Take as many open files as the system allows: the usual 1,024 are few for two sockets and more a request."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _affordable(limits: ConnectionLimits) -> ConnectionLimits:
    """No more connections than half the files this process may open: each may need one to a model as well."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits
    affordable = max(1, (soft - _SPARE_FILES) // 2)
    return msgspec.structs.replace(limits, connections=min(limits.connections, affordable))
