"""`local`: SmolLM2-135M-Instruct on this machine, many sequences decoded together by OpenVINO GenAI."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shoal.backends.engine import Engine
from shoal.backends.engine_wire import Answer, Ask, Count, Counted, Done, Output, Piece, Refused
from shoal.backends.openai_wire import wire_seed
from shoal.backends.weights import digest, embedded_weights
from shoal.errors import BadRequest, ContextLengthExceeded, EngineEnded, EngineError, ModelError, UsageError
from shoal.runtime.backend import Capabilities, Draws, Outcome, scores
from shoal.runtime.types import Completion, Delta, Json, Request, TokenLogprob, Usage

_IN_FLIGHT = 64
_MOST_DRAWS = 64  # of one prompt in one call
_ERRORS: dict[str, type[ModelError]] = {
    "request": BadRequest,
    "context": ContextLengthExceeded,
    "engine": EngineError,
    "ended": EngineEnded,
}


class EmbeddedBackend:
    """The embedded model. Nothing is loaded before the first call; weights and engine come with `shoal[local]`.

    It runs in a process of its own, because the engine holds Python's lock while it works; that process ends with
    `aclose`, and with this one.

    Where a request leaves them open, `temperature` is 1.0, so that draws differ, and `max_tokens` 512. Prompt and
    reply share 8,192 tokens. At temperature 0 draws of one prompt are one draw. A seed fixes the random numbers of a
    draw, not its text: what is decoded beside a sequence changes its rounding. The same calls made together give the
    same texts; replay of anything else comes from the cache. Log-probabilities are those of the generated tokens
    before temperature and the like; alternatives are not to be had. A regex has neither lookaround nor
    backreferences; a grammar is xgrammar's EBNF and begins at `root`. `extra` may hold `repetition_penalty`,
    `no_repeat_ngram_size`, `min_tokens` and `ignore_eos`.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self.weights = weights or embedded_weights()
        self.name = "local"
        content = digest(self.weights)
        self.identity = f"openvino-genai {_version()}|{content}|q8_0"
        self.capabilities = Capabilities(
            max_n=_MOST_DRAWS,
            max_in_flight=_IN_FLIGHT,
            text=True,
            stream=True,
            seed=True,
            logprobs=True,
            json_schema=True,
            regex=True,
            choices=True,
            grammar=True,
            prefill=True,
            forced_logprobs=True,
            count_tokens=True,
        )
        self._engine = Engine(str(self.weights), f"{content}-q8_0")

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return list(await asyncio.gather(*map(self._outcome, batch)))

    async def _outcome(self, draws: Draws) -> Outcome:
        # Greedy draws are all the same one, and so are those that leave no choice.
        n = 1 if draws.request.params.temperature == 0 or scores(draws.request) else draws.n
        try:
            async with aclosing(self._engine.run(_ask(draws.request, n, stream=False))) as replies:
                async for reply in replies:
                    if isinstance(reply, Done):
                        drawn = self._completions(reply)
                        return drawn + [drawn[0].cached() for _ in range(draws.n - n)]
                    self._refuse(reply)
        except ModelError as error:
            return error
        raise AssertionError("a call ends with Done or Refused")

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        async with aclosing(self._engine.run(_ask(request, 1, stream=True))) as replies:
            async for reply in replies:
                if isinstance(reply, Piece):
                    yield Delta(reply.text)
                elif isinstance(reply, Done):
                    yield self._completions(reply)[0]
                else:
                    self._refuse(reply)

    async def count_tokens(self, request: Request) -> int:
        async with aclosing(self._engine.run(Count(0, _prompt(request)))) as replies:
            async for reply in replies:
                if isinstance(reply, Counted):
                    return reply.tokens
                self._refuse(reply)
        raise AssertionError("a count ends with Counted or Refused")

    def _refuse(self, reply: Answer) -> None:
        if isinstance(reply, Refused):
            raise _ERRORS[reply.kind](reply.message, endpoint=self.name)

    def _completions(self, done: Done) -> list[Completion]:
        """The draws; the prompt is paid for once, with the first."""
        return [self._completion(out, 0 if i else done.prompt_tokens) for i, out in enumerate(done.outputs)]

    def _completion(self, output: Output, prompt: int) -> Completion:
        named = output.logprobs
        return Completion(
            output.text,
            output.finish_reason,
            Usage(prompt, output.tokens, calls=1),
            self.name,
            logprobs=None if named is None else tuple(TokenLogprob(token, logprob) for token, logprob in named),
        )

    async def aclose(self) -> None:
        """Let the model go; the next call loads it again."""
        await asyncio.to_thread(self._engine.close)


def _ask(request: Request, n: int, *, stream: bool) -> Ask:
    seed = wire_seed(request)
    seed = secrets.randbits(31) if seed is None else seed
    return Ask(0, _prompt(request), n, seed, request.params, stream, scores(request))


def _prompt(request: Request) -> str | list[tuple[str, str]]:
    if request.prompt is not None:
        return request.prompt
    if any(_beyond_text(message.content) for message in request.messages):
        raise BadRequest("the embedded model reads text only", endpoint="local")
    return [(message.role, message.text) for message in request.messages]


def _beyond_text(content: str | Json | None) -> bool:
    if not isinstance(content, Json):
        return False
    return any(not isinstance(part, dict) or part.get("type") != "text" for part in content.value())


def _version() -> str:
    try:
        return version("openvino-genai")
    except PackageNotFoundError:
        raise UsageError("the embedded model needs its engine; run: pip install 'shoal[local]'") from None
