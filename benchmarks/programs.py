"""What programs cost: python -m benchmarks.programs.

JSON lines. `builtins`: CPU of 1,000 calls of a built-in at once, each through a program, on a model that costs nothing,
beside a bare gather of as many coroutines. `flows`: a program of `depth` steps over `rows` items, journalled, on a
server that answers after `delay_ms`, beside the bare client; `to_critical_path` is its wall time over depth x delay,
which nothing can beat.
"""

import asyncio
import json
import time

import aiohttp
from benchmarks.floor import chat
from benchmarks.mock import mock_server

import shoal
from shoal import llm
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend

CALLS, ROWS, DEPTH = 1000, 1000, 4
DELAYS_MS = (50, 500)
ROUNDS = 7


@shoal.program
async def ask(question: str) -> str:
    return await llm.generate_text(question, stop=["\n"], max_tokens=16)


@shoal.program
async def chain(question: str) -> str:
    for _ in range(DEPTH):
        question = await llm.generate_text(f"{question} And then?", max_tokens=16)
    return question


async def nothing(question: str) -> str:
    await asyncio.sleep(0)
    return question


def builtins() -> dict[str, object]:
    best = {"shoal": float("inf"), "floor": float("inf")}
    for turn in range(ROUNDS):
        questions = [f"{turn} {i}?" for i in range(CALLS)]
        model = BaseModel(ScriptedBackend(lambda request: "x"))
        start = time.process_time()
        shoal.run(shoal.parallel(*map(ask, questions)), model=model)
        best["shoal"] = min(best["shoal"], time.process_time() - start)
        start = time.process_time()
        shoal.run(asyncio.wait_for(gathered(questions), None))
        best["floor"] = min(best["floor"], time.process_time() - start)
    return {f"{name}_cpu_us": round(seconds / CALLS * 1e6, 1) for name, seconds in best.items()}


async def gathered(questions: list[str]) -> list[str]:
    return list(await asyncio.gather(*map(nothing, questions)))


def flows(delay_ms: int) -> dict[str, object]:
    best = {"shoal": float("inf"), "floor": float("inf")}
    with mock_server(delay_ms=delay_ms) as mock:
        for turn in range(ROUNDS // 2):
            questions = [f"{turn} {i}" for i in range(ROWS)]
            model = shoal.open_model("openai/m", base_url=mock.base_url, api_key="x", cache=None, max_in_flight=ROWS)
            start = time.perf_counter()
            records = shoal.map(chain, questions, model=model)
            best["shoal"] = min(best["shoal"], time.perf_counter() - start)
            assert all(record.error is None for record in records)
            start = time.perf_counter()
            shoal.run(bare(mock.base_url, questions))
            best["floor"] = min(best["floor"], time.perf_counter() - start)
    return {
        "rows": ROWS,
        "depth": DEPTH,
        "delay_ms": delay_ms,
        "wall_s": round(best["shoal"], 3),
        "floor_wall_s": round(best["floor"], 3),
        "to_floor": round(best["shoal"] / best["floor"], 2),
        "to_critical_path": round(best["shoal"] / (DEPTH * delay_ms / 1000), 2),
    }


async def bare(base_url: str, questions: list[str]) -> None:
    """The same flow on the bare client, each row by itself."""
    url = f"{base_url}/chat/completions"

    async def item(question: str) -> None:
        for _ in range(DEPTH):
            question = (await chat(client, url, f"{question} And then?"))[0]

    headers = {"authorization": "Bearer x", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=ROWS)) as client:
        await asyncio.gather(*map(item, questions))


if __name__ == "__main__":
    print(json.dumps({"benchmark": "builtins", **builtins()}), flush=True)
    for delay_ms in DELAYS_MS:
        print(json.dumps({"benchmark": "flows", **flows(delay_ms)}), flush=True)
