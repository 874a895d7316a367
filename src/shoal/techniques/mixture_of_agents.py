"""Mixture of agents: layers of proposers, each seeing all answers of the layer before (arXiv:2406.04692)."""

from collections.abc import Sequence

from msgspec import structs

from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques._conversation import said, with_system
from shoal.techniques._options import at_least, not_empty


async def mixture_of_agents(
    model: Model,
    request: Request,
    *,
    layers: int = 3,
    width: int = 3,
    proposers: Sequence[Model] | None = None,
    aggregator: Model | None = None,
) -> Completion:
    """Let several models propose, improve on each other's answers layer by layer, and one aggregate the last ones.

    Each of the first `layers - 1` layers has `width` answers, given by the `proposers` in turn (all of them where there
    are more than `width`); the last layer is the aggregator alone. With one model the answers of a layer are
    independent draws of it.
    """
    at_least(1, layers=layers, width=width)
    not_empty(proposers=proposers)
    team = list(proposers or [model])
    width = max(width, len(team))
    spent = Usage()
    asked = request
    for _ in range(layers - 1):
        drafts = await gather(*(team[i % len(team)](asked.draw(i)) for i in range(width)))
        spent = spent + total(draft.usage for draft in drafts)
        asked = with_system(request, prompt("synthesize").fill({"answers": _numbered(drafts)}))
    final = await answer(aggregator or model, asked)
    return structs.replace(final, usage=spent + final.usage)


def _numbered(drafts: Sequence[Completion]) -> str:
    return "\n\n".join(f"[Answer {i}]\n{said(draft)}" for i, draft in enumerate(drafts, 1))
