"""Mixture of agents: layers of proposers, each seeing all answers of the layer before (arXiv:2406.04692).

With `critiques`, what is synthesised has been criticised before (Patched MOA, arXiv:2407.18521).
"""

from collections.abc import Sequence

from msgspec import structs

from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques._conversation import aside, said, transcript, with_system
from shoal.techniques._judging import is_empty, numbered
from shoal.techniques._options import at_least, not_empty


async def mixture_of_agents(
    model: Model,
    request: Request,
    *,
    layers: int = 3,
    width: int = 3,
    proposers: Sequence[Model] | None = None,
    aggregator: Model | None = None,
    critiques: bool = False,
) -> Completion:
    """Let several models propose, improve on each other's answers layer by layer, and one aggregate the last ones.

    Each of the first `layers - 1` layers has `width` answers, given by the `proposers` in turn (all of them where there
    are more than `width`); the last layer is the aggregator alone. With one model the answers of a layer are
    independent draws of it. With `critiques` the aggregator criticises the answers of each layer, and the next one sees
    answers and critique. Empty answers are left out; where a layer gives no other, the next one starts anew.
    """
    at_least(1, layers=layers, width=width)
    not_empty(proposers=proposers)
    team = list(proposers or [model])
    aggregator = aggregator or model
    width = max(width, len(team))
    spent = Usage()
    asked = request
    for layer in range(layers - 1):
        # Each layer has draws of its own, as it may be asked what an earlier one was: that gave nothing, or the same.
        place = (width + layer,) if layer else ()
        drafts = await gather(*(team[i % len(team)](asked.draw(*place, i)) for i in range(width)))
        spent = spent + total(draft.usage for draft in drafts)
        drafts = [draft for draft in drafts if not is_empty(draft)]
        critique = None
        if critiques and drafts:
            critique = await aggregator(_ask_critique(request.draw(layer), drafts))
            spent = spent + critique.usage
        asked = _ask_synthesis(request, drafts, critique) if drafts else request
    final = await answer(aggregator, asked)
    return structs.replace(final, usage=spent + final.usage)


def _ask_critique(request: Request, drafts: Sequence[Completion]) -> Request:
    gaps = {"conversation": transcript(request), "answers": numbered(drafts)}
    return aside(request, prompt("mixture_of_agents_critique").fill(gaps), temperature=0.0)


def _ask_synthesis(request: Request, drafts: Sequence[Completion], critique: Completion | None) -> Request:
    if critique is None or is_empty(critique):
        return with_system(request, prompt("synthesize").fill({"answers": numbered(drafts)}))
    gaps = {"answers": numbered(drafts), "critique": said(critique)}
    return with_system(request, prompt("mixture_of_agents_critiqued").fill(gaps))
