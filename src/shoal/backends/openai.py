"""Any server of the OpenAI API: chat completions, text completions, streams, embeddings."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from copy import copy
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

from aiohttp import MultipartWriter

from shoal.backends import llamacpp_wire, vllm_wire
from shoal.backends.openai_embeddings import from_wire_embeddings, to_wire_embeddings
from shoal.backends.openai_stream import StreamedReply
from shoal.backends.openai_wire import (
    Dialect,
    Server,
    begun,
    error_of,
    from_wire_chat,
    from_wire_text,
    to_wire_chat,
    to_wire_text,
    wire_seed,
)
from shoal.backends.transport import Incoming, Reply, Transport
from shoal.errors import BadRequest, ModelError, UsageError, did_you_mean
from shoal.runtime.backend import Capabilities, Draws, Outcome, scores
from shoal.runtime.types import Completion, Delta, Request

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no such limit to ask for
    resource = None  # type: ignore[assignment]

_APIS = ("all", "chat", "text")
_CONSTRAINTS = ("vllm", "llamacpp")
_MOST_IN_FLIGHT = 1024
_OTHER_FILES = 64  # file descriptors left for everything that is no connection


class _Urls(NamedTuple):
    chat: str
    text: str
    embeddings: str
    tokenize: str
    template: str

    @classmethod
    def of(cls, base: SplitResult) -> "_Urls":
        """Those of the API, and those that servers have beside it for what it does not know."""
        beside = base.path.removesuffix("/v1")
        api = [f"{base.path}/{name}" for name in ("chat/completions", "completions", "embeddings")]
        paths = [*api, f"{beside}/tokenize", f"{beside}/apply-template"]
        return cls(*(urlunsplit((base.scheme, base.netloc, path, base.query, "")) for path in paths))


class OpenAIBackend:
    """A model behind an OpenAI-compatible server.

    `base_url` ends where the API's paths begin (usually in /v1). Requests of messages go to chat/completions, bare
    prompts to completions, up to `queries_per_batch` of them in one request; `api` "chat" or "text" keeps to one of
    the two. `max_n` is how many draws of one prompt a request may ask for, `timeout` the seconds one wire request may
    take in all. `constraints` ("vllm", "llamacpp") says whose server it is, and so how it spells regex, choices and
    grammar, continues a message, scores a choice and counts tokens. `endpoint` is the server's name in errors.

    Raises UsageError for a base_url that is no http(s) URL or that holds credentials.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each thing servers differ in
        self,
        model: str,
        *,
        base_url: str,
        api_key: str | None = None,
        endpoint: str = "openai",
        max_in_flight: int | None = None,
        max_n: int = 128,
        queries_per_batch: int = 1,
        api: Literal["all", "chat", "text"] = "all",
        constraints: str | None = None,
        timeout: float = 600.0,
        transport: Transport | None = None,
    ) -> None:
        if api not in _APIS:
            raise UsageError(f"api {api!r}: {did_you_mean(api, _APIS)}")
        if constraints not in (None, *_CONSTRAINTS):
            raise UsageError(f"constraints {constraints!r}: {did_you_mean(str(constraints), _CONSTRAINTS)}")
        url = _checked(base_url)
        base = urlunsplit((url.scheme, url.netloc, url.path, "", ""))
        self.name = f"{endpoint}/{model}"
        self.base_url = base
        self.identity = f"openai|{base}|{model}|{api}"
        self.capabilities = _capabilities(max_in_flight, max_n, queries_per_batch, api, constraints)
        official = url.hostname == "api.openai.com"
        self._dialect = Dialect("max_completion_tokens" if official else "max_tokens", constraints)
        self.server = Server(endpoint, model, api_key or "")
        self._timeout = timeout
        self._urls = _Urls.of(url)
        self._base = url
        self._transport = transport or Transport(
            endpoint=endpoint, headers=_headers(api_key), max_connections=self.capabilities.max_in_flight
        )

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        """One wire request, or several at once where the draws cannot share one (conversations, other n or seed)."""
        if len(batch) == 1:
            return await self._ask(batch)
        groups: dict[object, list[int]] = {}
        for i, draws in enumerate(batch):
            groups.setdefault(_shared(draws, i), []).append(i)
        asked = await asyncio.gather(*(self._ask([batch[i] for i in group]) for group in groups.values()))
        outcomes: dict[int, Outcome] = {}
        for group, answered in zip(groups.values(), asked, strict=True):
            outcomes.update(zip(group, answered, strict=True))
        return [outcomes[i] for i in range(len(batch))]

    async def _ask(self, batch: Sequence[Draws]) -> list[Outcome]:
        try:
            if scores(batch[0].request) and self.capabilities.forced_logprobs:
                return [await self._scored(batch[0])]
            return await self._drawn(batch)
        except ModelError as error:
            return [error, *(copy(error) for _ in batch[1:])]

    async def _drawn(self, batch: Sequence[Draws]) -> list[Outcome]:
        url = self._urls.chat if batch[0].request.prompt is None else self._urls.text
        status, headers, body = await self._transport.post(url, self._body(batch), timeout=self._timeout)
        return self._read(batch, status, headers, body)

    def _read(self, batch: Sequence[Draws], status: int, headers: Mapping[str, str], body: bytes) -> list[Outcome]:
        if not 200 <= status < 300:
            raise error_of(status, headers, body, self.server)
        if batch[0].request.prompt is None:
            drawn = from_wire_chat(body, batch[0], self.server, headers)
            if self._dialect.constraints == "llamacpp" and begun(batch[0].request):
                return [llamacpp_wire.new_text(outcome, batch[0].request) for outcome in drawn]
            return drawn
        return from_wire_text(body, batch, self.server, headers)

    async def _scored(self, draws: Draws) -> Outcome:
        """The only choice and its log-probabilities: one draw, whatever n."""
        request, server = draws.request, self.server
        if self._dialect.constraints == "vllm":
            url = self._urls.chat if request.prompt is None else self._urls.text
            body = self._encoded(lambda: vllm_wire.scored_body(server.model, request, self._dialect))
            first = vllm_wire.scored(await self._post(url, body), request, server)
        else:
            (outcome,) = await self._drawn([Draws(await self._forced(request))])
            if isinstance(outcome, ModelError) or not outcome:
                return outcome
            first = llamacpp_wire.scored(outcome[0], request)
        return [first, *(first.cached() for _ in range(draws.n - 1))]

    async def _forced(self, request: Request) -> Request:
        body = self._encoded(lambda: llamacpp_wire.choice_body(request.params.choices[0]))
        return llamacpp_wire.forced(request, await self._post(self._urls.tokenize, body), self.server)

    async def count_tokens(self, request: Request) -> int:
        server = self.server
        if self._dialect.constraints == "vllm":
            body = self._encoded(lambda: vllm_wire.count_body(server.model, request))
            return vllm_wire.count_of(await self._post(self._urls.tokenize, body), server)
        prompt = request.prompt
        if prompt is None:
            body = self._encoded(lambda: llamacpp_wire.template_body(request))
            prompt = llamacpp_wire.prompt_of(await self._post(self._urls.template, body), server)
        body = self._encoded(lambda: llamacpp_wire.prompt_body(prompt))
        return llamacpp_wire.count_of(await self._post(self._urls.tokenize, body), server)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        body = self._encoded(lambda: to_wire_embeddings(self.server.model, texts))
        return from_wire_embeddings(await self._post(self._urls.embeddings, body), len(texts), self.server)

    async def _post(self, url: str, body: bytes) -> bytes:
        status, headers, reply = await self._transport.post(url, body, timeout=self._timeout)
        if not 200 <= status < 300:
            raise error_of(status, headers, reply, self.server)
        return reply

    def _encoded(self, encode: Callable[[], bytes]) -> bytes:
        try:
            return encode()
        except UnicodeEncodeError:
            raise BadRequest("the request holds half a surrogate pair", endpoint=self.server.name) from None

    def _body(self, batch: Sequence[Draws], *, stream: bool = False) -> bytes:
        model, request = self.server.model, batch[0].request
        if self._dialect.constraints == "llamacpp":
            llamacpp_wire.check(request, self.server)
        if request.prompt is None:
            return self._encoded(lambda: to_wire_chat(model, batch[0], dialect=self._dialect, stream=stream))
        return self._encoded(lambda: to_wire_text(model, batch, dialect=self._dialect, stream=stream))

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        """Deltas as they come, then the whole Completion; raises where the stream ends before the answer does."""
        if scores(request) and self.capabilities.forced_logprobs:
            outcome = await self._scored(Draws(request))
            if isinstance(outcome, ModelError):
                raise outcome
            yield outcome[0]
            return
        url = self._urls.chat if request.prompt is None else self._urls.text
        body = self._body([Draws(request)], stream=True)
        reply = StreamedReply(request, self.server)
        async with self._transport.stream(url, body, timeout=self._timeout) as incoming:
            if "event-stream" not in (incoming.headers.get("content-type") or "").lower():
                whole = await incoming.whole()  # an error, or the answer of a server that does not stream
                outcome = self._read([Draws(request)], incoming.status, incoming.headers, whole)[0]
                if isinstance(outcome, ModelError):
                    raise outcome
                yield outcome[0]
                return
            if not 200 <= incoming.status < 300:
                raise error_of(incoming.status, incoming.headers, b"", self.server)
            async for chunk in incoming.chunks():
                for delta in reply.feed(chunk):
                    yield delta
                if reply.done:
                    break
        yield reply.completion()

    def open(
        self, api: Literal["chat/completions", "completions"], body: bytes
    ) -> AbstractAsyncContextManager[Incoming]:
        """The reply to a body that somebody else wrote, as it comes."""
        return self._transport.stream(self._url(api), body, timeout=self._timeout)

    async def send(self, api: Literal["chat/completions", "completions"], body: bytes) -> Reply:
        """The same, once it is all there."""
        return await self._transport.post(self._url(api), body, timeout=self._timeout)

    def exchange(
        self,
        method: str,
        path: str,
        *,
        body: bytes | MultipartWriter | None = None,
        timeout: float | None = None,
        max_body: int | None = None,
    ) -> AbstractAsyncContextManager[Incoming]:
        """The reply, as it comes, of another part of the API: `path` begins where base_url ends, with a slash."""
        path, _, query = path.partition("?")
        base = self._base
        query = "&".join(filter(None, (base.query, query)))
        url = urlunsplit((base.scheme, base.netloc, base.path + path, query, ""))
        return self._transport.exchange(method, url, body=body, timeout=timeout or self._timeout, max_body=max_body)

    def wire_body(self, draws: Draws) -> bytes:
        """The body by which draws of one question are asked. Raises BadRequest where none can be written."""
        return self._body([draws])

    def read_reply(self, draws: Draws, status: int, body: bytes) -> Outcome:
        """What a reply to `wire_body(draws)` holds, however it came."""
        try:
            return self._read([draws], status, {}, body)[0]
        except ModelError as error:
            return error

    def _url(self, api: str) -> str:
        return self._urls.chat if api == "chat/completions" else self._urls.text

    async def aclose(self) -> None:
        """Close the connections; the backend may be used again afterwards."""
        await self._transport.aclose()

    def __repr__(self) -> str:
        return self.name


def _shared(draws: Draws, i: int) -> object:
    """What draws must have in common to go in one wire request; a conversation or a scored choice shares with none."""
    request = draws.request
    return i if request.prompt is None or scores(request) else (request.params, draws.n, wire_seed(request))


def _headers(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError("the API key holds characters that no HTTP header can carry")
    return {"authorization": f"Bearer {key}"}


def _checked(base_url: str) -> SplitResult:
    """The URL in its normal form. What is wrong with it is said without repeating it: it may hold a secret."""
    try:
        url = urlsplit(base_url.strip())
        host, port = url.hostname, url.port
    except ValueError:
        raise UsageError("base_url is not a URL") from None
    if url.scheme not in ("http", "https") or not host:
        raise UsageError("base_url must be an http:// or https:// URL")
    if url.username is not None or url.password is not None:
        raise UsageError("base_url must hold no credentials; give them as api_key")
    if ":" in host:
        host = f"[{host}]"
    default = {"http": 80, "https": 443}[url.scheme]
    netloc = host if port in (None, default) else f"{host}:{port}"
    return SplitResult(url.scheme, netloc, url.path.rstrip("/"), url.query, "")


def _capabilities(
    max_in_flight: int | None, max_n: int, queries_per_batch: int, api: str, constraints: str | None
) -> Capabilities:
    most = max_in_flight or _MOST_IN_FLIGHT
    if resource is not None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files != resource.RLIM_INFINITY:
            most = max(1, min(most, files - _OTHER_FILES))
    return Capabilities(
        max_n=max_n,
        max_batch=queries_per_batch,
        max_in_flight=most,
        chat=api != "text",
        text=api != "chat",
        stream=True,
        seed=True,
        logprobs=True,
        top_logprobs=20,
        json_schema=True,
        regex=constraints == "vllm",
        choices=constraints is not None,
        grammar=constraints is not None,
        tools=api != "text",
        images=api != "text",
        prefill=constraints is not None,
        forced_logprobs=constraints is not None,
        embed=True,
        count_tokens=constraints is not None,
    )
