"""Critique: a draft, a critique of it, and the answer rewritten with both in view (after arXiv:2303.17651)."""

from msgspec import structs

from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import aside, instructed, said, transcript
from shoal.techniques._judging import is_empty
from shoal.techniques._options import at_least


async def critique(
    model: Model, request: Request, *, rounds: int = 1, critic: Model | None = None, reviser: Model | None = None
) -> Completion:
    """Draft an answer, have it criticised, and rewrite it with draft and critique in view.

    Each of `rounds` criticises and rewrites what the one before wrote. The critic sees the whole conversation and the
    draft, the reviser the whole conversation, the draft and the critique. A rewrite that is empty does not replace its
    draft. Where the last one is cut off, the draft is among the `alternatives`.
    """
    at_least(1, rounds=rounds)
    critic, reviser = critic or model, reviser or model
    draft = await model(request)
    spent = draft.usage
    for number in range(rounds):
        asked = request.draw(number)
        verdict = await critic(_ask_critique(asked, draft))
        rewriting = _ask_rewrite(asked, draft, verdict)
        rewrite = await (answer(reviser, rewriting) if number == rounds - 1 else reviser(rewriting))
        spent = spent + verdict.usage + rewrite.usage
        draft = _better(draft, rewrite)
    return structs.replace(draft, usage=spent)


def _ask_critique(request: Request, draft: Completion) -> Request:
    gaps = {"conversation": transcript(request), "draft": said(draft)}
    return aside(request, prompt("critique_find").fill(gaps), temperature=0.0)


def _ask_rewrite(request: Request, draft: Completion, verdict: Completion) -> Request:
    return instructed(request, prompt("critique_rewrite").fill({"draft": said(draft), "critique": said(verdict)}))


def _better(draft: Completion, rewrite: Completion) -> Completion:
    if is_empty(rewrite):
        return draft
    cut_off = rewrite.finish_reason == "length" and draft.finish_reason != "length"
    return structs.replace(rewrite, alternatives=(*rewrite.alternatives, draft)) if cut_off else rewrite
