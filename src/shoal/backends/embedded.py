"""`local`: SmolLM2-135M-Instruct in this process, many sequences decoded together by OpenVINO GenAI."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shoal.backends.engine import Engine, Job
from shoal.backends.weights import digest, embedded_weights
from shoal.errors import ContextLengthExceeded, ModelError, UsageError
from shoal.runtime.backend import Capabilities, Draws, Outcome
from shoal.runtime.types import Completion, Delta, Request, SamplingParams, TokenLogprob, Usage

CONTEXT = 8192  # tokens of prompt and answer together, as the model was trained
DEFAULT_MAX_TOKENS = 512
DEFAULT_TEMPERATURE = 1.0
_CACHE_GB = 1
_IN_FLIGHT = 64


class EmbeddedBackend:
    """The embedded model. Nothing is loaded before the first call; weights and engine come with `shoal[local]`.

    Where a request leaves them open, `temperature` is 1.0 and `max_tokens` 512. A seed starts the generator of one
    draw, but does not promise its text: what is decoded beside a sequence changes its rounding. Replay comes from the
    cache. Log-probabilities are those of the generated tokens; alternatives are not to be had.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self.weights = weights or embedded_weights()
        self.name = "local"
        self.identity = f"openvino-genai {version('openvino-genai')}|{digest(self.weights)}"
        self.capabilities = Capabilities(
            max_n=_IN_FLIGHT,
            max_in_flight=_IN_FLIGHT,
            text=True,
            stream=True,
            seed=True,
            logprobs=True,
            json_schema=True,
            regex=True,
            choices=True,
            grammar=True,
        )
        self._tokenizer: Any = None
        self._loading = threading.Lock()
        self._engine = Engine(self._load)

    def _load(self) -> Any:
        genai = _genai()
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GB
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = 4 * _IN_FLIGHT
        return genai.ContinuousBatchingPipeline(str(self.weights), scheduler, "CPU", {})

    def _load_tokenizer(self) -> None:
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = _genai().Tokenizer(str(self.weights))

    async def _tokens(self, request: Request) -> Any:
        if self._tokenizer is None:
            await asyncio.to_thread(self._load_tokenizer)
        if request.prompt is not None:
            text = request.prompt
        else:
            turns = [{"role": message.role, "content": message.text} for message in request.messages]
            text = self._tokenizer.apply_chat_template(turns, True)
        tokens = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        wanted = tokens.shape[-1] + (request.params.max_tokens or 1)
        if tokens.shape[-1] == 0:
            raise UsageError("the embedded model cannot continue an empty prompt")
        if wanted > CONTEXT:
            raise ContextLengthExceeded(f"{wanted} tokens do not fit the context of {CONTEXT}", endpoint=self.name)
        return tokens

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return [await self._draws(draws) for draws in batch]

    async def _draws(self, draws: Draws) -> Outcome:
        try:
            tokens = await self._tokens(draws.request)
            outputs = await self._engine.run(Job(tokens, _config(draws.request, draws.n)))
        except ModelError as error:
            error.endpoint = error.endpoint or self.name
            return error
        prompt = tokens.shape[-1]
        return [self._completion(draws.request, o, prompt if not i else 0) for i, o in enumerate(outputs)]

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        tokens = await self._tokens(request)
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        ids: list[int] = []

        def grown(new: list[int]) -> None:
            ids[:] = new
            pieces.put_nowait(self._tokenizer.decode(new))

        task = asyncio.ensure_future(self._engine.run(Job(tokens, _config(request, 1), grown)))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        shown = ""
        hold = max((len(stop) for stop in request.params.stop), default=1) - 1
        try:
            while (text := await pieces.get()) is not None:
                ready = text[: len(text) - hold].rstrip("\ufffd")
                if ready.startswith(shown) and ready != shown:
                    yield Delta(ready[len(shown) :])
                    shown = ready
            (output,) = await task
        finally:
            task.cancel()
        completion = self._completion(request, output, tokens.shape[-1], ids)
        if completion.text != shown:
            yield Delta(completion.text[len(shown) :])
        yield completion

    def _completion(self, request: Request, output: Any, prompt: int, before: Sequence[int] = ()) -> Completion:
        from openvino_genai import GenerationFinishReason

        ids = [*before, *output.generated_ids]
        text = self._tokenizer.decode(ids)
        reason = "length" if output.finish_reason == GenerationFinishReason.LENGTH else "stop"
        cuts = [at for stop in request.params.stop if (at := text.find(stop)) >= 0]
        if cuts:
            text, reason = text[: min(cuts)], "stop"
        logprobs = None
        if request.params.logprobs:
            pieces = [self._tokenizer.decode([i], skip_special_tokens=False) for i in ids]
            logprobs = tuple(TokenLogprob(t, p) for t, p in zip(pieces, output.generated_log_probs, strict=False))
        usage = Usage(prompt_tokens=prompt, completion_tokens=len(ids), calls=1)
        return Completion(text, reason, usage, self.name, logprobs=logprobs)

    async def aclose(self) -> None:
        """Let the model go; the next call loads it again."""
        await asyncio.to_thread(self._engine.close)


def _genai() -> Any:
    # The package's telemetry is for its converters; nothing here may reach a network.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino_genai
    except ImportError as error:
        raise UsageError(f"the embedded model needs its engine: pip install 'shoal[local]' ({error})") from None
    return openvino_genai


def _config(request: Request, n: int) -> Any:
    genai = _genai()
    params = request.params
    config = genai.GenerationConfig()
    config.set_eos_token_id(2)  # <|im_end|>
    config.apply_chat_template = False
    config.max_new_tokens = params.max_tokens or DEFAULT_MAX_TOKENS
    config.num_return_sequences = n
    temperature = DEFAULT_TEMPERATURE if params.temperature is None else params.temperature
    if temperature > 0:
        config.do_sample = True
        config.temperature = temperature
    config.rng_seed = _seed(request)
    for name in ("top_p", "top_k", "presence_penalty", "frequency_penalty", "min_p"):
        if (value := getattr(params, name)) is not None:
            setattr(config, name, value)
    if params.stop:
        config.stop_strings = set(params.stop)
        config.include_stop_str_in_output = True
    if params.logprobs:
        config.logprobs = 1
    constraint = _constraint(genai, params)
    if constraint is not None:
        config.structured_output_config = constraint
    return config


def _seed(request: Request) -> int:
    """A seed for this draw: the user's where there is one, and different for every path."""
    named = repr((request.params.seed, request.sample, None if request.params.seed is not None else id(request)))
    return int.from_bytes(blake2b(named.encode(), digest_size=4).digest(), "big")


def _constraint(genai: Any, params: SamplingParams) -> Any:
    given = {
        "json_schema": params.json_schema.text if params.json_schema else None,
        "regex": params.regex,
        "grammar": params.grammar,
    }
    if params.choices:
        quoted = " | ".join('"' + c.replace("\\", "\\\\").replace('"', '\\"') + '"' for c in params.choices)
        given["grammar"] = f"root ::= {quoted}"
    chosen = {name: value for name, value in given.items() if value is not None}
    return genai.StructuredOutputConfig(**chosen) if chosen else None
