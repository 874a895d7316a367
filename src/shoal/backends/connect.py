"""From a URL to an open connection: addresses, TLS, and the proxy that the environment names."""

import asyncio
import base64
import os
import socket
import ssl
from typing import NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from shoal.backends.connection import Connection
from shoal.errors import CertificateError, ConnectionFailed, UsageError

_MOST_CONNECT_BYTES = 16 << 10


class Origin(NamedTuple):
    """Where to connect. `proxy` is the host and port to go through, `proxy_auth` the credentials it is shown."""

    host: str
    port: int
    tls: bool
    proxy: tuple[str, int] | None = None
    proxy_auth: str = ""

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"


def origin_of(url: SplitResult) -> Origin:
    """The origin of an http(s) URL, by way of HTTP_PROXY, HTTPS_PROXY and NO_PROXY as other programs read them."""
    tls = url.scheme == "https"
    host = url.hostname or ""
    port = url.port or (443 if tls else 80)
    proxies = getproxies()
    said = proxies.get(url.scheme) or proxies.get("all")
    if not said or proxy_bypass(f"{host}:{port}"):
        return Origin(host, port, tls)
    proxy = urlsplit(said if "://" in said else f"http://{said}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise UsageError(f"{url.scheme.upper()}_PROXY must be an http:// URL (or unset: NO_PROXY excepts hosts)")
    auth = ""
    if proxy.username:
        secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        auth = f"proxy-authorization: Basic {base64.b64encode(secret.encode()).decode()}\r\n"
    return Origin(host, port, tls, (proxy.hostname, proxy.port or 80), auth)


async def connect(origin: Origin, server: str, timeout: float, tls: ssl.SSLContext | None) -> Connection:
    """A connection ready to send on. Raises ConnectionFailed or, for good, CertificateError."""
    try:
        async with asyncio.timeout(timeout):
            return await _connect(origin, server, tls)
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(f"{origin}: {error.verify_message}", endpoint=server) from None
    except TimeoutError:
        raise ConnectionFailed(f"{origin}: no connection within {timeout:g} s", endpoint=server) from None
    except ssl.SSLError as error:
        raise ConnectionFailed(f"{origin}: TLS: {error.reason}", endpoint=server) from None
    except UnicodeError:  # from looking up what is no host name
        raise ConnectionFailed(f"{origin}: not a host name", endpoint=server) from None
    except OSError as error:
        known = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConnectionFailed(f"{origin}: {known or type(error).__name__}", endpoint=server) from None


async def _connect(origin: Origin, server: str, tls: ssl.SSLContext | None) -> Connection:
    loop = asyncio.get_running_loop()
    connection = Connection(server)
    name = origin.host if tls else None
    if origin.proxy is None or tls is None:
        host, port = origin.proxy or (origin.host, origin.port)
        await _first_address(host, port, connection, tls, name)
        return connection
    tunnel = _Tunnel(origin, server)
    plain = await _first_address(*origin.proxy, tunnel, None, None)
    try:
        await tunnel.ready
        secure = await loop.start_tls(plain, connection, tls, server_hostname=name)
    except BaseException:
        plain.abort()
        raise
    assert secure is not None
    connection.connection_made(secure)
    return connection


async def _first_address(
    host: str, port: int, protocol: asyncio.Protocol, tls: ssl.SSLContext | None, name: str | None
) -> asyncio.Transport:
    """Connect to the first of the host's addresses that answers; a dead one must not use up all the time there is."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for i, address in enumerate(addresses):
        last = i == len(addresses) - 1
        try:
            async with asyncio.timeout(None if last else 2.0):
                transport, _ = await loop.create_connection(
                    lambda: protocol, address, port, ssl=tls, server_hostname=name
                )
                _keep_alive(transport)
                return transport
        except ssl.SSLCertVerificationError:
            raise
        except OSError:  # TimeoutError too
            if last:
                raise
    raise OSError("the name has no address")


def _keep_alive(transport: asyncio.Transport) -> None:
    """A reply may be minutes away: probes keep what is on the way from forgetting the connection, and find it dead."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Tunnel(asyncio.Protocol):
    """Asks a proxy to CONNECT; `ready` when it has."""

    def __init__(self, origin: Origin, server: str) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._said = b""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        where = f"{host}:{origin.port}"
        self._request = f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\n{origin.proxy_auth}\r\n".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._said += data
        if b"\r\n\r\n" in self._said or len(self._said) > _MOST_CONNECT_BYTES:
            status = self._said.split(b" ", 2)[1:2]
            good = status == [b"200"] and self._said.endswith(b"\r\n\r\n")
            self._end(None if good else f"the proxy refused to connect ({b''.join(status).decode('latin-1')[:3]})")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the proxy closed the connection")

    def _end(self, what: str | None) -> None:
        if self.ready.done():
            return
        if what is None:
            self.ready.set_result(None)
        else:
            self.ready.set_exception(ConnectionFailed(what, endpoint=self._server))
