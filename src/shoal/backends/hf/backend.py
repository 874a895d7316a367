"""`transformers/MODEL`: a model in this process, by Hugging Face transformers."""

import asyncio
import secrets
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from msgspec import structs

from shoal.backends.hf.config import source
from shoal.backends.hf.engine import Engine
from shoal.backends.hf.sequence import Call
from shoal.backends.openai_wire import wire_seed
from shoal.errors import EngineError, ModelError
from shoal.runtime.backend import Capabilities, Draws, Outcome, scores
from shoal.runtime.types import Completion, Delta, Request

_MOST_DRAWS = 64  # of one prompt in one call
_IN_FLIGHT = 512  # calls that the engine is told of; it decodes as many together as its options say
_TOP = 20


class TransformersBackend:
    """A causal language model of Hugging Face transformers. Nothing is loaded before the first call.

    It runs in threads of this process, and ends with `aclose`. Where a request leaves them open, `temperature`,
    `top_p`, `top_k` and `min_p` are what the model's generation_config.json says if it says that it samples, else
    1.0 and off; `max_tokens` is what the context leaves.

    A seed fixes the random numbers of a draw, one a token, on every device: the same seed gives the same text as long
    as rounding, which depends on what is decoded beside it, does not move a token's probability past its number. At
    temperature 0 draws of one prompt are one draw. Log-probabilities are those before temperature and the like.
    `extra` may hold `repetition_penalty`, `min_tokens`, `ignore_eos`, `chat_template_kwargs` for what the model's
    template knows, and `tool_choice` and `parallel_tool_calls`. A grammar is xgrammar's EBNF and begins at `root`; a
    regex has neither lookaround nor backreferences.
    """

    def __init__(
        self, model: str, options: dict[str, Any] | None = None, lora: Path | None = None, name: str = ""
    ) -> None:
        self.name = name or f"transformers/{model}"
        self._source = source(model, options or {}, lora, self.name)
        self.identity = self._source.identity
        self.capabilities = Capabilities(
            max_n=_MOST_DRAWS,
            max_in_flight=_IN_FLIGHT,
            text=True,
            stream=True,
            seed=True,
            logprobs=True,
            top_logprobs=_TOP,
            json_schema=True,
            regex=True,
            choices=True,
            grammar=True,
            tools=True,
            prefill=True,
            forced_logprobs=True,
            count_tokens=True,
        )
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return list(await asyncio.gather(*map(self._outcome, batch)))

    async def _outcome(self, draws: Draws) -> Outcome:
        # Greedy draws are all the same one, and so are those that leave no choice.
        n = 1 if draws.request.params.temperature == 0 or scores(draws.request) else draws.n
        try:
            async with aclosing(self._ask(Call(draws.request, _seeds(draws, n)))) as replies:
                drawn = [reply async for reply in replies if isinstance(reply, Completion)]
        except ModelError as error:
            return error
        return drawn + [drawn[0].cached() for _ in range(draws.n - n)]

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        async with aclosing(self._ask(Call(request, _seeds(Draws(request), 1), stream=True))) as replies:
            async for reply in replies:
                if isinstance(reply, Delta | Completion):
                    yield reply

    async def count_tokens(self, request: Request) -> int:
        async with aclosing(self._ask(Call(request, (), count=True))) as replies:
            async for reply in replies:
                if isinstance(reply, int):
                    return reply
        raise EngineError("no count", endpoint=self.name)

    async def _ask(self, call: Call) -> AsyncGenerator[Delta | Completion | int, None]:
        """The replies to a call, to the last. Leaving early takes it out of the batch."""
        engine = self._running()
        engine.submit(call)
        finished = False
        try:
            while not finished:
                for reply in await call.replies.get():
                    if isinstance(reply, ModelError):
                        raise reply
                    finished = not isinstance(reply, Delta)
                    yield reply
        finally:
            if not finished:
                engine.cancel(call)

    def _running(self) -> Engine:
        with self._lock:
            if self._engine is None or self._engine.ended:
                if self._finalizer is not None:
                    self._finalizer.detach()
                self._engine = Engine(self._source)
                self._finalizer = weakref.finalize(self, self._engine.close)
            return self._engine

    async def aclose(self) -> None:
        """Let the model go; the next call loads it again."""
        with self._lock:
            engine, self._engine = self._engine, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if engine is not None:
            await asyncio.to_thread(engine.close)


def _seeds(draws: Draws, n: int) -> list[int]:
    """A seed for each draw: its own where the caller gave one, else any."""
    request = draws.request
    if request.params.seed is None:
        return [secrets.randbits(64) for _ in range(n)]
    samples = draws.samples or tuple((*request.sample, i) for i in range(n))
    return [wire_seed(structs.replace(request, sample=path)) or 0 for path in (samples if n > 1 else [request.sample])]
