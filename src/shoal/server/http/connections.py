"""One client's connection: what it may send, how long it may take over it, and how it is refused."""

import asyncio
import socket
import struct
import traceback
from typing import cast

import msgspec
from aiohttp import web
from aiohttp.streams import StreamReader

from shoal.server.http.errors import bad_http, closing_answer, is_form, raw_answer, too_slow
from shoal.server.refusals import Refusal

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: what the kernel still holds for the client is dropped


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client's connection may take: times in seconds, sizes in bytes.

    Headers must be whole `header_s` after the connection was made, or after the first byte of a further request; a body
    `body_s` after its headers, that of a form, which uploads a file, `upload_s`. A kept connection may be idle for
    `idle_s`. A client that takes none of an answer for `stall_s` is cut off; an answer that streams, in pieces of up to
    64 KiB, waits for its client before `buffered_bytes` are unsent. After an answer given before the body was read, the
    rest of the body is read and dropped for `linger_s`. At a signal to stop, answers under way get `drain_s`.
    Connections beyond `connections` are refused with 503.
    """

    header_s: float = 10
    body_s: float = 30
    upload_s: float = 900
    idle_s: float = 75
    stall_s: float = 60
    linger_s: float = 2
    drain_s: float = 30
    buffered_bytes: int = 256 * 1024
    connections: int = 1024
    line_bytes: int = 8 * 1024
    headers: int = 100
    header_bytes: int = 32 * 1024

    @property
    def check_s(self) -> float:
        """How often the times are looked at: the most by which a client may exceed one."""
        return min(1.0, min(self.header_s, self.body_s, self.idle_s, self.stall_s) / 10)


TOO_MANY = raw_answer(
    Refusal(
        503,
        "the server has as many connections as it may; try again later",
        kind="server_error",
        code="too_many_connections",
        retry_after=1,
    )
)


class Open:
    """The open connections of one listener, and the requests that are being answered on them."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.connections: set[Connection] = set()
        self.answering = 0
        self.ending = False
        self._none_left = asyncio.Event()

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """The protocol for a connection that has just come."""
        if len(self.connections) >= self.limits.connections:
            return _TooMany()
        return Connection(server, self)

    def check(self, now: float) -> None:
        """Cut off, or answer 408 to, every client that is too slow."""
        for connection in list(self.connections):
            connection.check(now)

    def end(self) -> None:
        """Close the idle connections; the others close after the answer they are at."""
        self.ending = True
        for connection in list(self.connections):
            connection.end()
        self.changed()

    def cut(self) -> None:
        """Break all connections, which cancels what is being answered."""
        for connection in list(self.connections):
            connection.cut()

    def changed(self) -> None:
        if self.ending and not self.connections and not self.answering:
            self._none_left.set()

    async def none_left(self) -> None:
        """Wait until, after `end`, the last connection is closed and the last request has ended."""
        await self._none_left.wait()


class _TooMany(asyncio.Protocol):
    """A connection beyond the limit: told so at once, for the price of one write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast(asyncio.Transport, transport)
        wire.write(TOO_MANY)
        wire.close()


class Connection(web.RequestHandler):
    """aiohttp's side of a connection, with the limits it lacks.

    aiohttp parses, refuses malformed framing, cancels the handler when the client goes away and ends idle connections.
    Added here: deadlines for headers and body, the size of all headers together, the cut for a client that takes
    nothing, answers to protocol errors in the OpenAI API's form, and an end that does not wait for idle clients.
    """

    def __init__(self, server: web.Server, connections: Open) -> None:
        limits = connections.limits
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_s,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.headers,
            lingering_time=limits.linger_s,
            access_log=None,  # type: ignore[arg-type] # aiohttp takes it for "write none", its annotation does not say so
        )
        self._limits = limits
        self._open = connections
        self._wire: asyncio.Transport | None = None  # aiohttp forgets its own when it closes, before all is sent
        self._deadline: float | None = None
        self._answering = False
        self._ending = connections.ending
        self._head_bytes = 0  # of headers that are not whole
        self._head_tail: bytes | None = b""  # their last bytes; None once they are whole
        self._body: StreamReader | None = None  # of the last request, if it was not whole when the application got it
        self._body_s = limits.body_s
        self._unsent = 0
        self._checks_stalled = 0  # since the client took some of what was unsent, or nothing was

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        # aiohttp lets a handler write 64 KiB more before it waits, and what it writes at once comes on top.
        self._wire.set_write_buffer_limits(high=self._limits.buffered_bytes // 4)
        self._deadline = self._now() + self._limits.header_s
        self._open.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._wire = None
        self._open.connections.discard(self)
        self._open.changed()

    def data_received(self, data: bytes) -> None:
        # After an answer given early the rest of the body comes, which aiohttp drops; only then, the next headers.
        in_body = self._answering or (self._body is not None and not self._body.is_eof())
        if data and not in_body and self._head_tail is not None and self._too_long(data, self._head_tail):
            self._refuse(bad_http(f"the headers are more than {self._limits.header_bytes} bytes"))
            return
        super().data_received(data)

    def _too_long(self, data: bytes, tail: bytes) -> bool:
        """Take note of a piece of headers that were not whole before it; whether they are too long by now."""
        if self._deadline is None:
            self._deadline = self._now() + self._limits.header_s
        if b"\r\n\r\n" in tail + data:
            self._head_tail = None
            return False
        self._head_bytes += len(data)
        self._head_tail = (tail + data)[-3:]
        return self._head_bytes > self._limits.header_bytes

    def began(self, request: web.Request) -> None:
        """The application has got a request: its headers are whole."""
        self._answering = True
        self._open.answering += 1
        self._body = None if request.content.is_eof() else request.content
        self._body_s = self._limits.upload_s if is_form(request) else self._limits.body_s
        self._deadline = None if self._body is None else self._now() + self._body_s

    def ended(self) -> None:
        """The application has given its answer, of which some may not be sent yet."""
        self._answering = False
        self._open.answering -= 1
        self._open.changed()
        self._deadline = None
        self._head_bytes, self._head_tail = 0, b""
        if self._ending:
            self.close()

    @property
    def ending(self) -> bool:
        """Whether the connection closes after the answer under way."""
        return self._ending

    def end(self) -> None:
        """Close now if no request is being received or answered, otherwise after its answer."""
        self._ending = True
        if self._answering or self._head_tail != b"":
            return
        if self.writing_paused:  # the last answer is not all written yet
            self.close()
        else:
            self.force_close()

    def cut(self) -> None:
        """Break the connection, whatever is unsent."""
        if self._wire is not None:
            wire: socket.socket | None = self._wire.get_extra_info("socket")
            if wire is not None:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._wire.abort()

    def check(self, now: float) -> None:
        """Cut off or refuse the client if it is too slow."""
        if self._wire is None:
            return
        unsent = self._wire.get_write_buffer_size()
        # Checks are counted, not seconds: a server that was held up itself must not take its clients for stalled.
        self._checks_stalled = 0 if unsent == 0 or unsent < self._unsent else self._checks_stalled + 1
        self._unsent = unsent
        if self._checks_stalled * self._limits.check_s >= self._limits.stall_s:
            self.cut()
        elif self._deadline is not None and now >= self._deadline:
            self._expire()

    def _expire(self) -> None:
        if self._answering:
            self._deadline = None
            if self._body is not None and not self._body.is_eof():
                self._body.set_exception(too_slow("body", self._body_s))  # for the handler, which may be reading it
                self.read_no_more(self._body)
        elif self._head_tail == b"":  # not a byte came: there is nothing to answer
            self.force_close()
        elif not self.writing_paused:  # the answer before is still being sent
            self._refuse(too_slow("headers", self._limits.header_s))

    def read_no_more(self, body: StreamReader) -> None:
        """Take nothing more from the client, whose body went wrong, and close after the answer to it."""
        body.feed_eof()  # otherwise aiohttp would try to read the rest
        self._ending = True
        self.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that is not whole, and close."""
        self._deadline = None
        if self._wire is not None and not self._wire.is_closing():
            self._wire.write(raw_answer(refusal))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what aiohttp could not parse (400), or to an error that no one caught (500, 504).

        What the client sent is neither repeated nor logged, nor is an error's text: they may hold keys.
        """
        self._deadline = None
        if isinstance(exc, ConnectionError) and (self._wire is None or self._wire.is_closing()):
            raise exc  # the client is gone
        if status >= 500:
            where = "".join(traceback.format_tb(exc.__traceback__)) if exc is not None else ""
            path = request.rel_url.raw_path
            self.logger.error("%s in the answer to %s %s\n%s", type(exc).__name__, request.method, path, where)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: all that can be done is to break it off")
        if status < 500:
            return closing_answer(
                bad_http("the request is not well-formed HTTP/1.1, or a line or a header is too long")
            )
        message = "the server failed to answer"
        return closing_answer(Refusal(status, message, kind="server_error", code="internal_error"))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
