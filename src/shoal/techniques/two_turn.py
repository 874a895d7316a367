"""Two turns: the answer in full, then the answer alone (the two stages of arXiv:2205.11916)."""

from msgspec import structs

from shoal.errors import UsageError, did_you_mean
from shoal.prompting.answers import KINDS, extract
from shoal.prompting.answers.markup import without_reasoning
from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer, then
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import has_form, instructed, said, thinking
from shoal.techniques._judging import is_empty


async def two_turn(model: Model, request: Request, *, ask: str | None = None, kind: str = "auto") -> Completion:
    """Answer freely, then state the answer alone in a second turn, which becomes the short answer.

    The text is the first reply. `ask` is what the second turn says, `kind` the sort of answer to look for in its reply.
    Where the user asked for a form (a schema, tools, stop strings...), that is for the second reply, which is then the
    text; the first is its `reasoning`.
    """
    if kind not in KINDS:
        raise UsageError(f"two_turn: kind={kind!r}; {did_you_mean(kind, KINDS)}")
    follow_up = prompt("two_turn").fill({}) if ask is None else ask
    if has_form(request):
        thought = await model(thinking(request))
        final = await answer(model, _second(request, thought, follow_up))
        return structs.replace(final, reasoning=thought.text or None, usage=thought.usage + final.usage)
    reply = await answer(model, request)
    stated = await model(_second(thinking(request), reply, follow_up))
    return structs.replace(reply, answer=_stated(stated, kind), usage=reply.usage + stated.usage)


def _second(request: Request, reply: Completion, follow_up: str) -> Request:
    """The second turn; where the first reply says nothing there is none to put before it."""
    return instructed(request, follow_up) if is_empty(reply) else then(request, said(reply), follow_up)


def _stated(reply: Completion, kind: str) -> str | None:
    """The answer that a reply is, or states; None where it was cut off before it stated any."""
    cut_off = reply.finish_reason == "length"
    found = extract(reply.text, kind, cut_off=cut_off)
    if found is not None or cut_off or kind not in ("auto", "text"):
        return found
    return (without_reasoning(reply.text) or "").strip() or None
