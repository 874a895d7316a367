"""One HTTP seam for every remote backend: POST bytes, get a whole reply or a stream of body bytes.

Whatever goes wrong is a typed ModelError: no connection or a cut one ConnectionFailed, a bad certificate
CertificateError, time run out DeadlineExceeded, a body over the bound MalformedResponse.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.request import RequestBuilder

from shoal.errors import ConnectionFailed, DeadlineExceeded, MalformedResponse


class Reply(NamedTuple):
    """A whole reply; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Incoming(NamedTuple):
    """A reply whose body is still coming."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Transport:
    """Connections to one server."""

    def __init__(
        self,
        *,
        endpoint: str = "",
        headers: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
        idle_timeout: float = 120.0,
        max_body: int = 32 << 20,
        max_connections: int = 1024,
    ) -> None:
        self._endpoint = endpoint
        self._idle_timeout = idle_timeout
        self._max_body = max_body
        builder = ClientBuilder().default_headers(dict(headers or {})).follow_redirects(False)
        builder = builder.connect_timeout(timedelta(seconds=connect_timeout)).max_connections(max_connections)
        self._builder = builder
        self._client: Client | None = None

    def _post(self, url: str, body: bytes) -> RequestBuilder:
        if self._client is None:
            self._client = self._builder.build()
        return self._client.post(url).header("content-type", "application/json").body_bytes(body)

    async def post(self, url: str, body: bytes, *, timeout: float) -> Reply:
        async with self.stream(url, body, timeout=timeout) as incoming:
            return Reply(incoming.status, incoming.headers, b"".join([c async for c in incoming.chunks]))

    @asynccontextmanager
    async def stream(self, url: str, body: bytes, *, timeout: float) -> AsyncIterator[Incoming]:
        try:
            async with asyncio.timeout(timeout):
                request = self._post(url, body).streamed_read_buffer_limit(0).build_streamed()
                async with request as response:

                    async def chunks() -> AsyncIterator[bytes]:
                        size = 0
                        while (chunk := await response.body_reader.read_chunk()) is not None:
                            size += len(chunk)
                            if size > self._max_body:
                                raise MalformedResponse("too large", endpoint=self._endpoint)
                            yield chunk.to_bytes()

                    yield Incoming(response.status, response.headers, chunks())
        except PyreqwestError as error:
            raise ConnectionFailed(type(error).__name__, endpoint=self._endpoint) from None
        except TimeoutError:
            raise DeadlineExceeded(f"no whole reply within {timeout:g} s", endpoint=self._endpoint) from None

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
