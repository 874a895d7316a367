"""The OpenAI SDK's asynchronous client in a plain gather; self-consistency as one request with n=8 and a vote.

With TRANSPORT=aiohttp over the transport its documentation gives for high concurrency.
"""

import asyncio
import os

from benchmarks.workload import COMPLETIONS, SAMPLES, arguments, majority, measured
from openai import AsyncOpenAI, DefaultAioHttpClient


async def run(base_url: str, workload: str, prompts: list[str]) -> list[str]:
    transport = DefaultAioHttpClient() if os.environ.get("TRANSPORT") == "aiohttp" else None

    async def item(question: str) -> str:
        n = 1 if workload == COMPLETIONS else SAMPLES
        reply = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": question}], **({"n": n} if n > 1 else {})
        )
        texts = [choice.message.content for choice in reply.choices]
        return texts[0] if workload == COMPLETIONS else majority(texts)

    async with AsyncOpenAI(base_url=base_url, api_key="x", http_client=transport) as client:
        return await asyncio.gather(*map(item, prompts))


if __name__ == "__main__":
    base_url, workload = arguments()
    measured(workload, base_url, lambda prompts: asyncio.run(run(base_url, workload, prompts)))
