"""One HTTP seam for every remote backend: POST bytes, get a whole reply or a stream of body bytes.

Whatever goes wrong is a typed ModelError: no connection or a cut one is ConnectionFailed, a certificate that does not
verify CertificateError, time run out DeadlineExceeded, a body over the bound or no HTTP at all MalformedResponse.
Redirects are not followed. A task that is cancelled closes its connection at once, so that the server stops working.
"""

import asyncio
import os
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from shoal.errors import CertificateError, ConnectionFailed, DeadlineExceeded, MalformedResponse, UsageError

_LINGER = 0.1
_KEPT = 30.0  # seconds: a connection idle for longer may have been forgotten by something on the way
_ENCODINGS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS, "identity": None, "": None}


class Reply(NamedTuple):
    """A whole reply; header names are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Incoming:
    """A reply whose body is still coming."""

    def __init__(self, response: aiohttp.ClientResponse, idle: float | None, max_body: int, endpoint: str) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._idle = idle
        self._max_body = max_body
        self._endpoint = endpoint
        self._size: int | None = None  # of what was read so far; None before the first piece
        self._unpack: _Unpacking | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece."""
        while chunk := await self.piece():
            yield chunk

    async def whole(self) -> bytes:
        chunks = []
        while chunk := await self.piece():
            chunks.append(chunk)
        return b"".join(chunks)

    async def piece(self) -> bytes:
        """The next piece, of the body after decompression, which is bounded; empty at its end."""
        if self._size is None:
            self._size, self._unpack = 0, self._unpacking()
        while piece := await self._chunk():
            if self._unpack is not None:
                piece = self._unpack(piece, self._max_body + 1 - self._size)
            self._size += len(piece)
            if self._size > self._max_body:
                raise MalformedResponse(f"a body of more than {self._max_body} bytes", endpoint=self._endpoint)
            if piece:
                return piece
        if self._unpack is not None and not self._unpack.finished:
            raise MalformedResponse("a compressed body without its end", endpoint=self._endpoint)
        return b""

    async def _chunk(self) -> bytes:
        if there := self._response.content.read_nowait():
            return there
        if self._response.content.at_eof():
            return b""
        try:
            async with asyncio.timeout(self._idle):
                return await self._response.content.readany()
        except TimeoutError:
            raise DeadlineExceeded(f"not a byte for {self._idle:g} s", endpoint=self._endpoint) from None

    def _unpacking(self) -> "_Unpacking | None":
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise MalformedResponse(f"a body in an encoding not asked for: {encoding[:40]}", endpoint=self._endpoint)
        bits = _ENCODINGS[encoding]
        return None if bits is None else _Unpacking(bits, self._endpoint)


class _Unpacking:
    """Bounded decompression: a few kilobytes may stand for gigabytes."""

    def __init__(self, window_bits: int, endpoint: str) -> None:
        self._zlib = zlib.decompressobj(window_bits)
        self._endpoint = endpoint

    def __call__(self, chunk: bytes, at_most: int) -> bytes:
        try:
            return self._zlib.decompress(chunk, at_most)
        except zlib.error:
            raise MalformedResponse("a body that does not decompress", endpoint=self._endpoint) from None

    @property
    def finished(self) -> bool:
        return self._zlib.eof


class Transport:
    """Connections, kept alive, to the servers its URLs name; at most `max_connections` at once.

    `headers` go with every request. Seconds: `connect_timeout` for a connection, `first_byte_timeout` from the request
    to the headers of the reply (by default as long as the whole call may take), `idle_timeout` between bytes of a
    body. `max_body` bounds the body after decompression. `endpoint` names the server in errors. It may be used on one
    event loop after another; connections end with their loop. Certificates are the system's, or those of
    SSL_CERT_FILE; proxies are those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
    """

    def __init__(
        self,
        *,
        endpoint: str = "",
        headers: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
        first_byte_timeout: float | None = None,
        idle_timeout: float = 120.0,
        max_body: int = 32 << 20,
        max_connections: int = 1024,
    ) -> None:
        self._endpoint = endpoint
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **(headers or {})}
        self._idle_timeout = idle_timeout
        self._max_body = max_body
        self._max_connections = max_connections
        # sock_read bounds the silence before the headers; the body is watched by Incoming.
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=first_byte_timeout, ceil_threshold=float("inf")
        )
        self._proxies: dict[str, str | None] = {}  # by URL; looking one up reads the environment
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._sessions: AsyncGenerator[aiohttp.ClientSession, None] | None = None

    def __repr__(self) -> str:
        return f"Transport({self._endpoint!r})"

    async def post(self, url: str, body: bytes, *, timeout: float) -> Reply:
        """A whole reply, within `timeout` seconds in all."""
        session, deadline = await self._ready(), asyncio.timeout(timeout)
        with self._typing(deadline, timeout):
            async with deadline, self._sent(session, url, body) as response:
                incoming = self._incoming(response)
                return Reply(incoming.status, incoming.headers, await incoming.whole())

    @asynccontextmanager
    async def stream(self, url: str, body: bytes, *, timeout: float) -> AsyncIterator[Incoming]:
        """A reply as it comes; leaving the context early closes the connection."""
        session, deadline = await self._ready(), asyncio.timeout(timeout)
        with self._typing(deadline, timeout):
            async with deadline, self._sent(session, url, body) as response:
                yield self._incoming(response)

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        *,
        timeout: float,
        body: bytes | aiohttp.MultipartWriter | None = None,
        max_body: int | None = None,
    ) -> AsyncIterator[Incoming]:
        """The reply, as it comes, to a request of any method; a form is sent as it is read, `max_body` is this
        reply's own bound."""
        session, deadline = await self._ready(), asyncio.timeout(timeout)
        headers = {"content-type": body.content_type} if isinstance(body, aiohttp.MultipartWriter) else None
        with self._typing(deadline, timeout):
            sent = session.request(
                method, url, data=body, headers=headers, allow_redirects=False, proxy=_proxy_for(url)
            )
            async with deadline, sent as response:
                yield Incoming(response, self._idle_timeout, max_body or self._max_body, self._endpoint)

    async def _ready(self) -> aiohttp.ClientSession:
        session = self._session if self._loop is asyncio.get_running_loop() else await self._open()
        assert session is not None
        return session

    def _sent(
        self, session: aiohttp.ClientSession, url: str, body: bytes
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        proxy = self._proxies[url] if url in self._proxies else self._proxies.setdefault(url, _proxy_for(url))
        return session.post(url, data=body, allow_redirects=False, proxy=proxy)

    def _incoming(self, response: aiohttp.ClientResponse) -> Incoming:
        return Incoming(response, self._idle_timeout, self._max_body, self._endpoint)

    @contextmanager
    def _typing(self, deadline: asyncio.Timeout, timeout: float) -> Iterator[None]:
        """What goes wrong in the body, as errors of ours."""
        try:
            yield
        except (aiohttp.ClientError, ssl.SSLError, OSError, UnicodeError) as error:
            if deadline.expired():
                raise DeadlineExceeded(f"no whole reply within {timeout:g} s", endpoint=self._endpoint) from None
            raise self._typed(error) from None

    def _typed(self, error: Exception) -> Exception:
        """Our error for one of the library's; never with its text where that could hold a URL with credentials."""
        where = self._endpoint
        if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
            return CertificateError(f"the certificate does not verify ({_reason(error)})", endpoint=where)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return ConnectionFailed(f"no connection within {self._timeout.sock_connect:g} s", endpoint=where)
        if isinstance(error, aiohttp.SocketTimeoutError):
            return DeadlineExceeded(f"not a byte for {self._timeout.sock_read:g} s", endpoint=where)
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return UsageError(f"{where}: not a URL that HTTP can use")
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return ConnectionFailed(f"the proxy refused to connect ({error.status})", endpoint=where)
        if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
            return ConnectionFailed("the connection broke before the reply was whole", endpoint=where)
        if isinstance(error, aiohttp.ClientResponseError):
            return MalformedResponse("the reply is not HTTP", endpoint=where)
        if isinstance(error, UnicodeError):
            return ConnectionFailed("not a host name", endpoint=where)
        return ConnectionFailed(_reason(error), endpoint=where)

    async def _open(self) -> aiohttp.ClientSession:
        """A session for the running loop, held by an asynchronous generator so that the loop closes it at its end."""
        self._proxies.clear()
        self._loop = asyncio.get_running_loop()
        self._sessions = self._lifetime()
        self._session = await anext(self._sessions)
        return self._session

    async def _lifetime(self) -> AsyncGenerator[aiohttp.ClientSession, None]:
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            keepalive_timeout=_KEPT,
            ttl_dns_cache=300,
            ssl=_tls(os.environ.get("SSL_CERT_FILE")),
        )
        async with aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield session

    async def aclose(self) -> None:
        """Close the connections; the transport may be used again afterwards."""
        sessions, self._sessions, self._session, self._loop = self._sessions, None, None, None
        if sessions is not None:
            await sessions.aclose()


@lru_cache  # reading the certificates takes 20 ms
def _tls(certificates: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates or None)


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL.

    One that cannot be used is an error, not a way around it. It may hold a password and is not repeated.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    if urlsplit(proxy).scheme != "http":
        raise UsageError(f"the {parts.scheme} proxy in the environment is not an http:// proxy; no other can be used")
    return proxy


def _reason(error: BaseException) -> str:
    """What the operating system or the TLS library said, without addresses and URLs."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return str(cause.verify_message)
    if isinstance(cause, ssl.SSLError):
        return f"no TLS connection ({cause.reason or 'handshake failed'})"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, ConnectionResetError | BrokenPipeError):
        return "the connection broke before the reply was whole"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name is not known"
    return getattr(cause, "strerror", None) or type(error).__name__
