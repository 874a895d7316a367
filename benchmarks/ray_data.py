"""Rows of a Ray dataset against a server whose answers take very different times: what the ends of batches cost.

python -m benchmarks.ray_data [--rows 2000] [--batch 64] [--median 0.2]

The same prompts, the same server on loopback, the same number of requests at once (two actors of `--batch` each, or
twice that in one process):

- `shoal.map`: one process, no Ray: what the cluster's way of doing it is held against
- `map_program`: shoal.ray on two actors, batches overlapping in one window
- `gather`: Ray's own map_batches with a class of two actors that gathers one request for each row of a batch
- `gather, larger batches`: the same with batches four times as large and the same bound on requests at once

The server says how long each answer takes by its prompt (log-normal, sigma 1, at most twenty times the median), so all
have the same latencies. `makespan_s` is from the first request to the last answer by the server's clock, so that no
start-up is in it; `wall_s` is all of it. `to_ideal` is the makespan over the sum of latencies divided by the requests
allowed at once, which nobody can beat but for the tail.
"""

import argparse
import asyncio
import json
import math
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEDIAN = "SHOAL_BENCH_MEDIAN"


def latency(prompt: str, median: float) -> float:
    """Seconds that the answer to a prompt takes."""
    return min(median * math.exp(random.Random(prompt).gauss(0, 1)), 20 * median)


async def serve() -> None:
    """The server: an OpenAI chat API, and /stats, which also sets them back."""
    from aiohttp import web

    median = float(os.environ[MEDIAN])
    stats = {"requests": 0, "first": math.inf, "last": 0.0, "at_once": 0, "most_at_once": 0}

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        stats["requests"] += 1
        stats["first"] = min(stats["first"], time.perf_counter())
        stats["at_once"] += 1
        stats["most_at_once"] = max(stats["most_at_once"], stats["at_once"])
        await asyncio.sleep(latency(body["messages"][-1]["content"], median))
        stats["at_once"] -= 1
        stats["last"] = time.perf_counter()
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "The answer is 4."}}
        usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
        return web.json_response({"id": "c", "model": "m", "choices": [choice], "usage": usage})

    async def told(_: web.Request) -> web.Response:
        said = dict(stats)
        stats.update(requests=0, first=math.inf, last=0.0, most_at_once=0)
        return web.json_response(said, dumps=lambda value: json.dumps(value).replace("Infinity", "0"))

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/stats", told)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[union-attr]
    await asyncio.Event().wait()


class Gather:
    """What one writes first: a request for each row of a batch, all at once, until all are answered."""

    def __init__(self, url: str, at_once: int) -> None:
        self.url = url
        self.at_once = at_once

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {"output": asyncio.run(self._answers(list(batch["prompt"])))}

    async def _answers(self, prompts: list[str]) -> list[str]:
        import aiohttp

        room = asyncio.Semaphore(self.at_once)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(prompt: str) -> str:
                body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
                async with room, session.post(f"{self.url}/chat/completions", json=body) as reply:
                    text: str = (await reply.json())["choices"][0]["message"]["content"]
                    return text

            return list(await asyncio.gather(*map(one, prompts)))


def measured(name: str, port: int, rows: int, ideal: float, work: Callable[[], int]) -> dict[str, Any]:
    """Do the work and say what it took."""

    def stats() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as reply:
            told: dict[str, float] = json.load(reply)
        return told

    stats()
    start = time.perf_counter()
    if work() != rows:
        raise SystemExit(f"{name}: rows are missing")
    wall, told = time.perf_counter() - start, stats()
    makespan = told["last"] - told["first"]
    return {
        "name": name,
        "rows_per_s": round(rows / makespan, 1),
        "makespan_s": round(makespan, 2),
        "to_ideal": round(makespan / ideal, 2),
        "wall_s": round(wall, 2),
        "requests": told["requests"],
        "most_at_once": told["most_at_once"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--median", type=float, default=0.2)
    given = parser.parse_args()
    environment = os.environ | {MEDIAN: str(given.median)}
    command = [sys.executable, "-m", "benchmarks.ray_data", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            compare(int(server.stdout.readline()), given.rows, given.batch, given.median)
        finally:
            server.terminate()


def compare(port: int, rows: int, batch: int, median: float) -> None:
    os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Nothing is told to anybody, and all listen on loopback alone (on Linux too, whatever the variable is called).
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    import ray

    import shoal
    import shoal.ray

    prompts = [f"Question {i}: how many?" for i in range(rows)]
    ideal = sum(latency(prompt, median) for prompt in prompts) / (2 * batch)
    print(json.dumps({"rows": rows, "at_once": 2 * batch, "median_latency_s": median, "ideal_s": round(ideal, 2)}))
    model, url = "openai/m", os.environ["OPENAI_BASE_URL"]
    ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([{"prompt": prompt} for prompt in prompts], override_num_blocks=8).materialize()

    def gathered(size: int) -> int:
        split = dataset.repartition(target_num_rows_per_block=size)
        options: dict[str, Any] = {"fn_constructor_kwargs": {"url": url, "at_once": batch}, "num_cpus": 1}
        pool = ray.data.ActorPoolStrategy(size=2)
        return int(split.map_batches(Gather, batch_size=size, compute=pool, **options).materialize().count())

    with tempfile.TemporaryDirectory() as place:

        def mapped() -> int:
            options: dict[str, Any] = {"concurrency": 2, "max_in_flight": batch, "cache": False}
            return int(shoal.ray.map_program(dataset, model, run_dir=f"{place}/ray", **options).materialize().count())

        def plain() -> int:
            opened = shoal.open_model(model, cache=False, max_in_flight=2 * batch)
            return len(shoal.map(opened, prompts, run_dir=Path(place, "map")))

        arms: dict[str, Callable[[], int]] = {
            "shoal.map": plain,
            "map_program": mapped,
            f"gather, batches of {batch}": lambda: gathered(batch),
            f"gather, batches of {4 * batch}": lambda: gathered(4 * batch),
        }
        found = {}
        for name, work in arms.items():
            found[name] = measured(name, port, rows, ideal, work)
            print(json.dumps(found[name]), flush=True)
    ours = found["map_program"]["makespan_s"]
    print(json.dumps({f"{name}, makespan to ours": round(arm["makespan_s"] / ours, 2) for name, arm in found.items()}))
    ray.shutdown()


if __name__ == "__main__":
    asyncio.run(serve()) if sys.argv[1:] == ["serve"] else main()
