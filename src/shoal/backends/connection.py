"""One HTTP/1.1 connection, one exchange at a time; closed for good after anything irregular."""

import asyncio
import zlib
from collections.abc import Callable
from typing import cast

import httptools

from shoal.errors import ConnectionFailed, DeadlineExceeded, MalformedResponse, ModelError

_MOST_HEADER_BYTES = 64 << 10


class Limits:
    """What one exchange may take: seconds in all, until the first byte, between bytes; bytes of the decoded body."""

    __slots__ = ("deadline", "first_byte", "idle", "max_body")

    def __init__(self, deadline: float, first_byte: float, idle: float, max_body: int) -> None:
        self.deadline = deadline
        self.first_byte = first_byte
        self.idle = idle
        self.max_body = max_body


class Connection(asyncio.Protocol):
    """Send with `start`, then await `whole()` or `head()` and `chunk()`. A reply that breaks raises a ModelError."""

    def __init__(self, server: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.exchanges = 0
        self.heard = False  # whether any byte of the reply came
        self.when_lost: Callable[[Connection], None] | None = None
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._broken = False
        self._complete = True

    # Exchanges

    def start(self, request: bytes, limits: Limits, *, eager: bool) -> None:
        """Send a request. `eager` readers are woken by every piece of the reply, others by its end alone."""
        assert self._transport is not None
        self.status, self.headers = 0, {}
        self.heard = self._complete = self._head_done = self._until_eof = False
        self._busy, self._eager = True, eager
        self._limits = limits
        self._chunks: list[bytes] = []
        self._size = self._head_size = 0
        self._inflate: zlib._Decompress | None = None
        self._error: ModelError | None = None
        self.exchanges += 1
        self._last = self._loop.time()
        if self._broken:
            self._fail(ConnectionFailed("the connection was closed", endpoint=self._server))
            return
        self._watch()
        if not self._complete:
            self._transport.write(request)

    @property
    def usable(self) -> bool:
        return not self._broken

    async def whole(self) -> bytes:
        while not self._complete:
            await self._change()
        return self._taken()

    async def head(self) -> None:
        while not (self._head_done or self._complete):
            await self._change()
        if not self._head_done:
            self._taken()

    async def chunk(self) -> bytes | None:
        """The body bytes that came since, or None at the end."""
        while not (self._chunks or self._complete):
            await self._change()
        return self._taken() or None

    def _taken(self) -> bytes:
        if self._error is not None:
            raise self._error
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def finish(self) -> bool:
        """End the exchange; True where the connection can carry another."""
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
        assert self._transport is not None
        if not self._complete or self._broken or self._transport.get_write_buffer_size():
            self.abort()
        return not self._broken

    def abort(self) -> None:
        """Close at once: the other side sees it, whatever it was doing."""
        self._broken = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    # Waiting

    async def _change(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: ModelError) -> None:
        if self._complete:
            return
        self._error = error
        self._complete = True
        self.abort()
        self._wake()

    def _watch(self) -> None:
        """One timer for all three limits: it looks what is due when it rings, and is set again."""
        now, limits = self._loop.time(), self._limits
        patience = limits.idle if self._head_done else limits.first_byte
        due = min(limits.deadline, self._last + patience)
        if now < due:
            again = min(due, now + limits.idle)  # patience changes when the headers come
            self._timer = self._loop.call_at(again, self._watch)
        elif now >= limits.deadline:
            self._fail(DeadlineExceeded("no whole reply in the time it was given", endpoint=self._server))
        else:
            self._fail(DeadlineExceeded(f"not a byte for {patience:g} s", endpoint=self._server))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:  # nobody asked: whatever it is, it is no answer to the next request
            self.abort()
            return
        self.heard = True
        self._last = self._loop.time()
        try:
            self._parser.feed_data(data)
        except ModelError as error:
            self._fail(error)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__
            known = isinstance(cause, ModelError)
            self._broken = True
            self._fail(cause if known else self._malformed(f"not HTTP: {error}"))  # type: ignore[arg-type]
        if not self._head_done:
            self._count_head(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = True
        if not self._complete:
            if self._until_eof and exc is None:
                self.on_message_complete()
            else:
                what = "the connection broke before the reply was whole"
                self._fail(ConnectionFailed(what, endpoint=self._server))
        if self.when_lost is not None:
            self.when_lost(self)

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:  # a second reply to one request
            self._broken = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # an interim reply: the real one follows
            self.headers = {}
            return
        self._head_done = True
        self._until_eof = "content-length" not in self.headers and "transfer-encoding" not in self.headers
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(wbits=47)
        elif encoding != "identity":
            self._fail(self._malformed(f"content-encoding {encoding[:20]}, which was not asked for"))
        if self._eager:
            self._wake()

    def on_body(self, data: bytes) -> None:
        if self._complete:
            return
        room = self._limits.max_body - self._size
        if self._inflate is not None:
            try:
                data = self._inflate.decompress(data, room + 1)
            except zlib.error:
                self._fail(self._malformed("a compressed body that does not decompress"))
                return
        self._size += len(data)
        if len(data) > room:
            self._fail(self._malformed(f"a body of more than {self._limits.max_body} bytes"))
        elif data:
            self._chunks.append(data)
            if self._eager:
                self._wake()

    def on_message_complete(self) -> None:
        if self._complete or not self._head_done:
            return
        if self._inflate is not None and not self._inflate.eof:
            self._fail(self._malformed("a compressed body that is cut off"))
            return
        if self._until_eof or not self._parser.should_keep_alive():
            self._broken = True
        self._complete = True
        self._wake()

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MOST_HEADER_BYTES:
            self._fail(self._malformed("headers without end"))

    def _malformed(self, what: str) -> MalformedResponse:
        return MalformedResponse(what, endpoint=self._server)
