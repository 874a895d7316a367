"""shoal doing the work, as its documentation says to.

python -m benchmarks.ours BASE_URL WORKLOAD    with MAX_IN_FLIGHT=N for another limit than the default
"""

import asyncio
import os

from benchmarks.workload import COMPLETIONS, SAMPLES, arguments, measured

import shoal


async def run(base_url: str, workload: str, prompts: list[str]) -> list[str]:
    spec = "openai/m" if workload == COMPLETIONS else f"self_consistency(n={SAMPLES})@openai/m"
    limit = int(os.environ["MAX_IN_FLIGHT"]) if "MAX_IN_FLIGHT" in os.environ else None
    model = shoal.open_model(spec, base_url=base_url, api_key="x", cache=None, max_in_flight=limit)
    completions = await asyncio.gather(*(model(shoal.Request.of(prompt)) for prompt in prompts))
    return [completion.answer or completion.text for completion in completions]


if __name__ == "__main__":
    base_url, workload = arguments()
    measured(workload, base_url, lambda prompts: shoal.run(run(base_url, workload, prompts)))
