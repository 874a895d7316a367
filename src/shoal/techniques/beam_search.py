"""Beam search over solution steps with a process reward (arXiv:2408.03314, section on search against a verifier)."""

from typing import Literal

from msgspec import structs

from shoal.errors import UsageError
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques._options import at_least
from shoal.techniques._partials import Partial, Steps, distinct, rank
from shoal.techniques._spending import Spending


async def beam_search(
    model: Model,
    request: Request,
    *,
    beams: int = 2,
    expand: int = 3,
    depth: int = 4,
    reward: str = "judge",
    judge: Model | None = None,
) -> Completion:
    """Solve step by step, going on from the few partial solutions with the highest reward.

    The first round draws `beams` times `expand` first steps. Each of up to `depth` rounds keeps the best `beams`
    partial solutions, and the next draws `expand` further steps for each that is not finished; finished ones stay in
    the running with the reward they have. `reward` is "judge": a judge sees the conversation and all steps, reasons,
    and scores from 0 to 10; or "logprobs": the mean log-probability of the last step's tokens. One that cannot be read
    ranks below all others. The answer is given by the best partial solution in the end.
    """
    at_least(1, beams=beams, expand=expand, depth=depth)
    if reward not in ("judge", "logprobs"):
        raise UsageError(f"reward={reward!r}: must be 'judge' or 'logprobs'")
    spending = Spending()
    rewarded: Literal["judge", "logprobs"] = "judge" if reward == "judge" else "logprobs"
    steps = Steps(spending.on(model), request, spending.on(judge or model), rewarded)
    kept = [Partial()]
    for level in range(depth):
        width = expand if level else beams * expand
        open_ = [partial for partial in kept if not partial.is_final]
        grown = await gather(*(steps.grown(partial, level, i) for partial in open_ for i in range(width)))
        found = distinct(grown)
        if reward == "judge":
            found = await gather(*map(steps.rated, found))
        if not found:  # there was nothing but blank steps: what there is remains
            break
        kept = sorted([*(p for p in kept if p.is_final), *found], key=rank, reverse=True)[:beams]
        if all(partial.is_final for partial in kept):
            break
    answer = await steps.answer(max(kept, key=rank))
    return structs.replace(answer, usage=spending.usage)
