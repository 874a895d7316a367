"""The bare client: the HTTP client and JSON library shoal uses, on uvloop, in a plain gather. What shoal is held to.

python -m benchmarks.floor BASE_URL WORKLOAD            a fused draw: one request with n=8
SEPARATE=1 python -m benchmarks.floor BASE_URL WORKLOAD  each draw a request of its own
"""

import asyncio
import os
from typing import Any

import aiohttp
import msgspec
import uvloop
from benchmarks.workload import COMPLETIONS, SAMPLES, arguments, majority, measured


async def chat(client: aiohttp.ClientSession, url: str, question: str, n: int = 1) -> list[str]:
    """The texts of one wire request."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": question}]}
    if n > 1:
        body["n"] = n
    async with client.post(url, data=msgspec.json.encode(body)) as response:
        reply = msgspec.json.decode(await response.read())
    return [choice["message"]["content"] for choice in reply["choices"]]


async def run(base_url: str, workload: str, prompts: list[str]) -> list[str]:
    url = f"{base_url}/chat/completions"
    separate = bool(os.environ.get("SEPARATE"))

    async def item(question: str) -> str:
        if workload == COMPLETIONS:
            return (await chat(client, url, question))[0]
        if not separate:
            return majority(await chat(client, url, question, SAMPLES))
        replies = await asyncio.gather(*(chat(client, url, question) for _ in range(SAMPLES)))
        return majority(reply[0] for reply in replies)

    headers = {"authorization": "Bearer x", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=1024)) as client:
        return await asyncio.gather(*map(item, prompts))


if __name__ == "__main__":
    base_url, workload = arguments()
    measured(workload, base_url, lambda prompts: uvloop.run(run(base_url, workload, prompts)))
