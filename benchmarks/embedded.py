"""The embedded model through shoal beside its engine's own best, in turns: python -m benchmarks.embedded.

One JSON line: tokens a second with 1, 8 and 32 prompts of about 85 tokens at once, 48 new tokens each; `ratio` is
shoal's over the engine's, which is given all its prompts in one call and answers them in the process that asks. Of
several rounds each figure is the highest seen.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from shoal.backends import BaseModel, engine_config
from shoal.backends.embedded import EmbeddedBackend
from shoal.backends.gguf import exact_weights
from shoal.backends.weights import digest
from shoal.runtime.types import Request

IN_FLIGHT = (1, 8, 32)
NEW_TOKENS = 48
_STORY = "Tell me a long story about a fisherman and his boat, the sea and the harbour, and the lamps on the quay. "


class Direct:
    """The engine by itself, as shoal configures it."""

    def __init__(self, weights: Path, name: str) -> None:
        self.genai = engine_config.import_genai()
        self.pipeline = engine_config.load(self.genai, exact_weights(weights, name))
        self.tokenizer = self.pipeline.get_tokenizer()

    def __call__(self, prompts: list[str]) -> None:
        tensors = [engine_config.tensor(engine_config.tokens(self.tokenizer, [("user", prompt)])) for prompt in prompts]
        self.pipeline.generate(tensors, [self._config(i) for i in range(len(prompts))])

    def _config(self, seed: int) -> object:
        config = self.genai.GenerationConfig()
        config.max_new_tokens = NEW_TOKENS
        config.ignore_eos = True
        config.do_sample = True
        config.rng_seed = seed
        return config


def ours(backend: EmbeddedBackend) -> Callable[[list[str]], None]:
    model = BaseModel(backend)

    async def ask(prompts: list[str]) -> None:
        requests = (Request.of(p, max_tokens=NEW_TOKENS, extra={"ignore_eos": True}) for p in prompts)
        done = await asyncio.gather(*map(model, requests))
        assert all(completion.usage.completion_tokens == NEW_TOKENS for completion in done)

    return lambda prompts: asyncio.run(ask(prompts))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    backend = EmbeddedBackend()
    contenders = {
        "shoal": ours(backend),
        "engine": Direct(backend.weights, f"{digest(backend.weights)}-q8_0"),
    }
    best = {name: dict.fromkeys(IN_FLIGHT, 0.0) for name in contenders}
    for turn in range(rounds + 1):  # the first loads and warms
        for count in IN_FLIGHT:
            for name, work in contenders.items():
                prompts = [f"{name} {turn} {i}. {_STORY * 2}" for i in range(count)]
                start = time.perf_counter()
                work(prompts)
                rate = count * NEW_TOKENS / (time.perf_counter() - start)
                if turn:
                    best[name][count] = max(best[name][count], rate)
    row: dict[str, object] = {
        f"{name}_tokens_per_s": {str(n): round(rate) for n, rate in rates.items()} for name, rates in best.items()
    }
    row["ratio"] = {str(n): round(best["shoal"][n] / best["engine"][n], 3) for n in IN_FLIGHT}
    child = backend._engine._process
    assert child is not None
    status = Path(f"/proc/{child.child.pid}/status").read_text().splitlines()
    row["engine_rss_mb"] = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
    asyncio.run(backend.aclose())
    print(json.dumps({"benchmark": "embedded", **row}))


if __name__ == "__main__":
    main()
