"""What breeding costs beside its calls: python -m benchmarks.evolution [--rounds 3] [--generations 3].

JSON lines, one for each setting, on a server that answers after 50 ms: `breed` with its journal and its folder, beside
the bare client that makes as many requests in the same waves, in turns. A generation's critical path is its calls one
after another, at the most, each in as many waves as `in_flight` makes of them; pairs that are done early overlap, so
that a little less is possible. `to_critical_path` is a generation's wall time over it, `cpu_us` the CPU of all threads
a question, what the folder and the units take included.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from benchmarks.floor import chat
from benchmarks.mock import mock_server

import shoal
from shoal.evaluation.scorers import open_scorer
from shoal.evolution import Decoders, Settings, Task, breed
from shoal.evolution.embedding import lexical
from shoal.evolution.planning import mutation_steps

DELAY_MS = 50
# Units, questions, calls of an answer, requests at once, speculation.
SETTINGS = (
    (50, 100, 1, 64, False),
    (50, 100, 2, 64, False),
    (50, 100, 2, 64, True),
    (50, 100, 1, 128, False),
    (50, 100, 1, 1024, False),
    (10, 20, 1, 200, False),
)
SAMPLED = Decoders(inducer={"max_tokens": 30, "temperature": 0.5}, evaluator={"max_tokens": 5, "temperature": 0.5})
ROWS = [
    {"question": f"A farmer has {i} sheep and buys {i + 3} more. How many?", "answer": 2 * i + 3} for i in range(1000)
]


def waves(calls: int, in_flight: int) -> int:
    return -(-calls // in_flight)


def bred(base_url: str, settings: Settings, in_flight: int) -> tuple[float, float]:
    """Wall seconds of a generation, and CPU seconds of the run."""
    task = Task("sums", "Solve the problem.", ROWS, "answer", open_scorer("number"), decoders=SAMPLED)
    with TemporaryDirectory() as folder:
        model = shoal.open_model("openai/m", base_url=base_url, api_key="x", cache=None, max_in_flight=in_flight)
        start = time.process_time()
        result = breed(task, model=model, settings=settings, run_dir=Path(folder, "RUN_0"), split=False, embed=lexical)
        cpu = time.process_time() - start
    seconds = sum(one.seconds for one in result.stats[1:])
    return seconds / settings.generations, cpu


async def bare(base_url: str, counts: list[int], in_flight: int) -> None:
    """As many requests, wave after wave."""
    url = f"{base_url}/chat/completions"
    headers = {"authorization": "Bearer x", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=in_flight)) as client:
        for number, count in enumerate(counts):
            await asyncio.gather(*(chat(client, url, f"{number} {i}") for i in range(count)))


def row(
    size: int, batch: int, steps: int, in_flight: int, speculate: bool, generations: int, rounds: int
) -> dict[str, Any]:
    settings = Settings(
        population_size=size, batch=batch, prompts_per_unit=steps, generations=generations, speculate=speculate
    )
    questions, born = size * batch, size if speculate else size // 2
    mutation = mutation_steps(settings) * waves(born, in_flight)
    answers = steps * waves(questions, in_flight)
    path = (max(mutation, answers) if speculate else mutation + answers) * DELAY_MS / 1000
    best = {"wall": float("inf"), "cpu": float("inf"), "floor_wall": float("inf"), "floor_cpu": float("inf")}
    with mock_server(delay_ms=DELAY_MS) as mock:
        for _ in range(rounds):
            wall, cpu = bred(mock.base_url, settings, in_flight)
            best["wall"], best["cpu"] = min(best["wall"], wall), min(best["cpu"], cpu)
            start, cpu = time.perf_counter(), time.process_time()
            shoal.run(bare(mock.base_url, [born] * mutation_steps(settings) + [questions] * steps, in_flight))
            best["floor_wall"] = min(best["floor_wall"], time.perf_counter() - start)
            best["floor_cpu"] = min(best["floor_cpu"], time.process_time() - cpu)
    calls = questions * steps
    return {
        "benchmark": "evolution",
        "units": size,
        "questions": batch,
        "steps": steps,
        "in_flight": in_flight,
        "speculate": speculate,
        "critical_path_s": round(path, 3),
        "generation_s": round(best["wall"], 3),
        "to_critical_path": round(best["wall"] / path, 2),
        "floor_s": round(best["floor_wall"], 3),
        "to_floor": round(best["wall"] / best["floor_wall"], 2),
        "cpu_us": round(best["cpu"] / (questions * (generations + 1)) * 1e6, 1),
        "cpu_us_per_call": round(best["cpu"] / (calls * (generations + 1)) * 1e6, 1),
        "floor_cpu_us_per_call": round(best["floor_cpu"] / calls * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--only", type=int, help="one setting, by its place from 0")
    options = parser.parse_args()
    chosen = SETTINGS if options.only is None else SETTINGS[options.only : options.only + 1]
    for setting in chosen:
        print(json.dumps(row(*setting, options.generations, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
