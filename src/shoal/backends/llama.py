"""`gguf/PATH`: any GGUF file in this process, by llama.cpp."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from shoal.backends.llamacpp_wire import (
    check,
    choice_body,
    count_of,
    forced,
    prompt_body,
    prompt_of,
    scored,
    template_body,
)
from shoal.backends.openai_errors import Server, error_of
from shoal.backends.openai_stream import StreamedReply
from shoal.backends.openai_wire import Dialect, to_wire_chat, to_wire_text
from shoal.backends.tools import tools_of
from shoal.backends.weights import checked, digest
from shoal.errors import BadRequest, EngineError, ModelError, UsageError
from shoal.runtime.backend import Capabilities, Draws, Outcome, scores
from shoal.runtime.types import Completion, Delta, Request

_SLOTS = 8  # sequences decoded together; llama.cpp gains little from more on a CPU
_CONTEXT_A_SLOT = 4096
_PATIENCE = 60.0  # seconds for what needs no decoding
_encode = msgspec.json.Encoder().encode


class LlamaBackend:
    """A GGUF model run by llama.cpp's own server code, without a server. Nothing is loaded before the first call.

    A cancelled call stops at its next token. Raises UsageError where the path is no GGUF file.
    """

    def __init__(self, path: Path, *, slots: int = _SLOTS) -> None:
        self.path = checked(path)
        self.name = f"gguf/{path}"
        self.identity = f"xllamacpp {_version()}|{digest(self.path)}"
        self.capabilities = Capabilities(
            max_in_flight=slots,
            text=True,
            stream=True,
            seed=True,
            logprobs=True,
            top_logprobs=20,
            json_schema=True,
            choices=True,
            grammar=True,
            tools=True,
            prefill=True,
            forced_logprobs=True,
            count_tokens=True,
        )
        self._slots = slots
        self._dialect = Dialect("max_tokens", "llamacpp")
        self._server = Server(self.name, self.name, "")
        self._loading = threading.Lock()
        self._engine: Any = None
        self._key = secrets.token_urlsafe(32)  # its loopback port opens to nobody else
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="shoal-llama")

    def _load(self) -> Any:
        with self._loading:
            if self._engine is None:
                import xllamacpp

                params = xllamacpp.CommonParams()
                params.model.path = str(self.path)
                params.n_ctx = _CONTEXT_A_SLOT * self._slots
                params.n_parallel = self._slots
                params.verbosity = -1
                params.api_keys = [self._key]
                self._engine = xllamacpp.Server(params)
            return self._engine

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return [await self._outcome(draws) for draws in batch]

    async def _outcome(self, draws: Draws) -> Outcome:
        try:
            async for piece in self.stream(draws.request):
                if isinstance(piece, Completion):
                    return [piece]
        except ModelError as error:
            return error
        return EngineError("no answer", endpoint=self.name)

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        stop = threading.Event()

        def hear(chunk: dict[str, Any]) -> bool:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            return stop.is_set()  # True ends the generation

        task = loop.run_in_executor(self._threads, self._ask, request, hear)
        task.add_done_callback(lambda _: chunks.put_nowait(None))
        reply = StreamedReply(request, self._server)
        try:
            while (chunk := await chunks.get()) is not None:
                if "choices" not in chunk:
                    status = (chunk.get("error") or chunk).get("code")
                    raise error_of(status if isinstance(status, int) else 500, {}, _encode(chunk), self._server)
                for delta in reply.feed(b"data: " + _encode(chunk) + b"\n\n"):
                    yield delta
            await task
        finally:
            stop.set()
        for delta in reply.feed(b"data: [DONE]\n\n"):
            yield delta
        completion = reply.completion()
        yield scored(completion, request) if scores(request) else completion

    def _ask(self, request: Request, hear: Callable[[dict[str, Any]], bool]) -> None:
        try:
            engine = self._load()
            check(request, self._server)
            self._check_tools(request)
            if scores(request):
                request = forced(request, self._post("/tokenize", choice_body(request.params.choices[0])), self._server)
            draws = Draws(request)
            if request.prompt is None:
                body = to_wire_chat(self.name, draws, dialect=self._dialect, stream=True)
                engine.handle_chat_completions(msgspec.json.decode(body), hear)
            else:
                body = to_wire_text(self.name, [draws], dialect=self._dialect, stream=True)
                asked = msgspec.json.decode(body)
                if isinstance(asked["prompt"], list):
                    (asked["prompt"],) = asked["prompt"]
                engine.handle_completions(asked, hear)
        except ValueError as error:  # what the server's code refuses
            raise BadRequest(str(error), endpoint=self.name) from error
        except RuntimeError as error:
            raise EngineError(str(error), endpoint=self.name) from error

    def _check_tools(self, request: Request) -> None:
        """BadRequest where the model would not see the tools: llama.cpp drops them in silence."""
        if tools_of(request).choice == "none":
            return
        bare = structs.replace(request, tools=())
        if self._post("/apply-template", template_body(request)) == self._post("/apply-template", template_body(bare)):
            raise BadRequest("the model's chat template shows it no tools", endpoint=self.name)

    async def count_tokens(self, request: Request) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._count, request)

    def _count(self, request: Request) -> int:
        prompt = request.prompt
        if prompt is None:
            prompt = prompt_of(self._post("/apply-template", template_body(request)), self._server)
        return count_of(self._post("/tokenize", prompt_body(prompt)), self._server)

    def _post(self, path: str, body: bytes) -> bytes:
        """A reply of the engine's own port: what it does not offer to its process otherwise."""
        address = urlsplit(self._load().listening_address)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE)
        try:
            headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            reply = response.read()
        except (OSError, HTTPException) as error:
            raise EngineError(f"{path}: {error}", endpoint=self.name) from None
        finally:
            connection.close()
        if response.status != 200:
            raise error_of(response.status, {}, reply, self._server)
        return reply

    async def aclose(self) -> None:
        """Let the model go; the next call loads it again."""
        self._engine = None


def _version() -> str:
    try:
        return version("xllamacpp")
    except ModuleNotFoundError:
        raise UsageError("a GGUF file needs its engine: pip install 'shoal[gguf]'") from None
