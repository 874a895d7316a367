"""`transformers/MODEL` under self_consistency(8) beside the library's own offline batch calls on the same prompts.

python -m benchmarks.transformers_engine DIR [--prompts 24] [--draws 8] [--tokens 32] [--rounds 3] [--together 64]

One JSON line for each way: completion tokens a second of wall time and of CPU time, the best of the rounds, and its
ratio to the library's best. The rounds of all ways alternate in one process, each way with weights loaded already.
`shoal` rows are whole runs, with journal, cache, vote and output; replies end where the model ends them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shoal
from shoal.backends import BaseModel
from shoal.backends.hf import TransformersBackend
from shoal.techniques.opening import from_bases

TEMPERATURE = 0.7
Run = Callable[[list[str]], int]


def prompts(count: int) -> list[str]:
    """Questions of different lengths."""
    return [f"What is {i} plus {i + 3}{', if you count carefully' * (i % 4)}? Give a number." for i in range(count)]


def ours(folder: Path, batching: str, given: argparse.Namespace) -> Run:
    """Whole runs of shoal on one way of batching; the model stays loaded."""
    options = {"batching": batching, "max_sequences": given.together}
    base = BaseModel(TransformersBackend(str(folder), options))
    model = from_bases(f"self_consistency(n={given.draws})@model", lambda *_: base)
    params = shoal.SamplingParams(temperature=TEMPERATURE, max_tokens=given.tokens)

    def run(questions: list[str]) -> int:
        with tempfile.TemporaryDirectory() as scratch:
            records = shoal.map(model, questions, params=params, run_dir=Path(scratch, "run"))
        return sum(record.usage.completion_tokens for record in records)

    return run


class Library:
    """The library's own calls on a model of its own."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        self.given = given

    def _config(self) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=None,
            max_new_tokens=self.given.tokens,
            num_return_sequences=self.given.draws,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def _texts(self, questions: list[str]) -> list[str]:
        turns = ([{"role": "user", "content": question}] for question in questions)
        return [self.tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]

    def generate_batch(self, questions: list[str]) -> int:
        """Continuous batching, its cache of the size that shoal's has."""
        from transformers import ContinuousBatchingConfig

        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in self._texts(questions)]
        config = ContinuousBatchingConfig(
            page_size=32, num_blocks=700, max_batch_tokens=512, max_requests_per_batch=self.given.together
        )
        outputs = self.model.generate_batch(
            ids, generation_config=self._config(), continuous_batching_config=config, progress_bar=False
        )
        return sum(len(output.generated_tokens) for output in outputs.values())

    def generate(self, questions: list[str]) -> int:
        """Batches of as many sequences as shoal decodes together."""
        total, end = 0, self.tokenizer.eos_token_id
        texts = sorted(self._texts(questions), key=len)
        size = max(1, self.given.together // self.given.draws)
        for start in range(0, len(texts), size):
            batch = self.tokenizer(
                texts[start : start + size], return_tensors="pt", padding=True, add_special_tokens=False
            )
            whole = self.model.generate(**batch, generation_config=self._config())
            for row in whole[:, batch.input_ids.shape[1] :].tolist():
                total += row.index(end) + 1 if end in row else len(row)
        return total


def measure(run: Run, questions: list[str]) -> tuple[float, float]:
    """Tokens a second of wall time and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = run(questions)
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("prompts", 24), ("draws", 8), ("tokens", 32), ("rounds", 3), ("together", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    library = Library(given.folder, given)
    ways: dict[str, Run] = {
        "shoal, continuous": ours(given.folder, "continuous", given),
        "shoal, bucketed": ours(given.folder, "bucketed", given),
        "generate_batch": library.generate_batch,
        "generate": library.generate,
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for run in ways.values():
        run(prompts(2))
    for _ in range(given.rounds):
        for way, run in ways.items():
            found[way].append(measure(run, prompts(given.prompts)))
    best = {way: tuple(map(max, zip(*rounds, strict=True))) for way, rounds in found.items()}
    wall = max(best["generate_batch"][0], best["generate"][0])
    cpu = max(best["generate_batch"][1], best["generate"][1])
    for way, (by_wall, by_cpu) in best.items():
        figures = {"tokens_per_second": round(by_wall, 1), "tokens_per_cpu_second": round(by_cpu, 1)}
        print(json.dumps({"way": way, **figures, "ratio": round(by_wall / wall, 3), "of_cpu": round(by_cpu / cpu, 3)}))


if __name__ == "__main__":
    main()
