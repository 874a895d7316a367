"""LiteLLM's acompletion in a plain gather; self-consistency as one request with n=8 and a vote."""

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its import would otherwise fetch a table

import litellm
from benchmarks.workload import COMPLETIONS, SAMPLES, arguments, majority, measured


async def run(base_url: str, workload: str, prompts: list[str]) -> list[str]:
    async def item(question: str) -> str:
        n = 1 if workload == COMPLETIONS else SAMPLES
        reply = await litellm.acompletion(
            model="openai/m",
            api_base=base_url,
            api_key="x",
            messages=[{"role": "user", "content": question}],
            **({"n": n} if n > 1 else {}),
        )
        texts = [choice.message.content for choice in reply.choices]
        return texts[0] if workload == COMPLETIONS else majority(texts)

    return await asyncio.gather(*map(item, prompts))


if __name__ == "__main__":
    litellm.telemetry = False
    base_url, workload = arguments()
    measured(workload, base_url, lambda prompts: asyncio.run(run(base_url, workload, prompts)))
