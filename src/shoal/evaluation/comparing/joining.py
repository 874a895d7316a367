"""The figures of several arms on one pool of draws, held to what the arms can ask for by themselves."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import structs

from shoal.planning.figures import Figure, ModelPlan, Plan, least_sure, total

P = TypeVar("P", Plan, ModelPlan)
_COUNTED = ("exact", "sample")


def joined(whole: Plan, alone: Sequence[Plan]) -> Plan:
    """The plan of a pool: no less than its dearest arm needs, no more than all arms need apart.

    Where calls are counted they stay as they are. What is not certain then is how many requests carry them: arms that
    ask a question at different times do not share one, and each request pays for the prompt.
    """
    counted = whole.calls.source in _COUNTED
    models = [_model(model, alone, counted=counted) for model in whole.models]
    held = _held(whole, alone, counted=counted)
    summed = total(model.dollars for model in models if model.dollars is not None)
    if held.dollars is not None:
        most = summed.most if counted else min(summed.most, _sum([plan.dollars for plan in alone]))
        held = structs.replace(held, dollars=Figure(min(summed.least, most), most, summed.source))
    longest = max(plan.path.most for plan in alone)
    path = Figure(whole.path.least, min(whole.path.most, longest), whole.path.source)
    steps = whole.steps
    if longest > 1:  # the arms do not wait for each other at each row
        steps = Figure(steps.least, steps.most, least_sure((steps.source, "dry run")))
    return structs.replace(held, models=tuple(models), path=path, steps=steps)


def _model(model: ModelPlan, alone: Sequence[Plan], *, counted: bool) -> ModelPlan:
    """One model's part."""
    parts = [part for plan in alone for part in plan.models if part.model == model.model]
    held = _held(model, parts, counted=counted)
    if held.price is None or held.dollars is None:
        return held
    prompt, completion = held.prompt_tokens, held.completion_tokens
    least = held.price.least.dollars(prompt.least, completion.least)
    most = held.price.most.dollars(prompt.most, completion.most)
    return structs.replace(held, dollars=Figure(least, most, held.dollars.source))


def _held(whole: P, alone: Sequence[P], *, counted: bool) -> P:
    calls, completion = whole.calls, whole.completion_tokens
    if not counted:
        calls = _between(calls, [part.calls for part in alone], whole.kept)
        completion = _between(completion, [part.completion_tokens for part in alone], whole.kept)
    prompts, wires = [part.prompt_tokens for part in alone], [part.wire_requests for part in alone]
    prompt, wire = whole.prompt_tokens, whole.wire_requests
    if not counted:
        prompt = _between(prompt, prompts, whole.kept)
        wire = _between(structs.replace(wire, most=calls.most), wires, whole.kept)
    elif wire != calls:
        most = max(wire.most, min(calls.most, _sum(wires)))
        wire = Figure(wire.least, most, least_sure((wire.source, "dry run")))
        prompt = Figure(prompt.least, max(prompt.most, _sum(prompts)), prompt.source)
    return structs.replace(whole, calls=calls, wire_requests=wire, prompt_tokens=prompt, completion_tokens=completion)


def _between(whole: Figure, alone: Sequence[Figure], kept: int) -> Figure:
    """From what the dearest arm needs (nothing is sure of what is kept) to what all need apart."""
    least = 0.0 if kept else max((figure.least for figure in alone), default=0.0)
    most = min(whole.most, _sum(alone))
    return Figure(min(least, most), most, whole.source)


def _sum(figures: Sequence[Figure | None]) -> float:
    return sum(figure.most for figure in figures if figure is not None)
