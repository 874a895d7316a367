"""Techniques made of techniques: one after another, side by side, one on another.

Stages are techniques; `functools.partial` gives one its options. In a spec they are written `a&b`, `a|b` and `a@b`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from msgspec import structs

from shoal.errors import UsageError
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, Technique, answer, apply, shown, then
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques._conversation import said
from shoal.techniques._judging import is_empty

T = TypeVar("T", bound=Technique)


def _written_with(sign: str) -> Callable[[T], T]:
    """Let `apply` show a combination as a spec writes it: its stages with `sign` between them."""

    def marked(technique: T) -> T:
        technique.sign, technique.written = sign, partial(_written, sign)  # type: ignore[attr-defined]
        return technique

    return marked


_BINDING = "@|&"  # from the loosest to the tightest


def _written(sign: str, stages: Sequence[Technique]) -> str:
    return sign.join(_bracketed(stage, sign) for stage in stages)


def _bracketed(stage: Technique, around: str) -> str:
    """A stage as it stands between signs: in brackets where its own sign does not bind tighter."""
    sign = stage.func.sign if isinstance(stage, partial) and hasattr(stage.func, "sign") else None
    loose = sign is not None and _BINDING.index(sign) <= _BINDING.index(around)
    return f"({shown(stage)})" if loose else shown(stage)


@_written_with("&")
async def pipeline(model: Model, request: Request, *, stages: Sequence[Technique]) -> Completion:
    """Run techniques one after another, each going over the answer of the one before.

    The first answers the request. Each next one gets the whole conversation, the answer before it as the assistant's
    turn, and a turn of the user's that asks to go over it and puts the question again. An empty answer is nothing to
    go over and replaces none. The completion is the last one's.
    """
    *earlier, last = _some("pipeline", stages)
    asked, spent = request, Usage()
    best: Completion | None = None
    for stage in earlier:
        reply = await apply(stage, model)(asked)
        spent = spent + reply.usage
        if not is_empty(reply):
            asked, best = _going_over(request, reply), reply
    final = await answer(apply(last, model), asked)
    kept = best if best is not None and is_empty(final) else final
    return structs.replace(kept, usage=spent + final.usage)


def _going_over(request: Request, reply: Completion) -> Request:
    return then(request, said(reply), prompt("go_over").fill({"question": request.text}))


@_written_with("|")
async def side_by_side(model: Model, request: Request, *, stages: Sequence[Technique]) -> Completion:
    """Run techniques on the same request at once: the first one's completion, the others as its `alternatives`.

    Draws that several of them ask in common are asked once and shared.
    """
    first, *others = _some("side_by_side", stages)
    replies = await gather(
        answer(apply(first, model), request), *(apply(technique, model)(request) for technique in others)
    )
    alternatives = (*replies[0].alternatives, *replies[1:])
    return structs.replace(replies[0], usage=total(reply.usage for reply in replies), alternatives=alternatives)


@_written_with("@")
async def nested(model: Model, request: Request, *, stages: Sequence[Technique]) -> Completion:
    """Run the first technique on a model that is the second one on a third..., as `a@b@model` does."""
    for stage in reversed(_some("nested", stages)):
        model = apply(stage, model)
    return await answer(model, request)


def _some(name: str, stages: Sequence[Technique]) -> Sequence[Technique]:
    if not stages:
        raise UsageError(f"{name}: no stages; at least one technique is needed")
    return stages
