"""A plan's figures with what a pilot saw: predictions for the rows that are left, within what is possible."""

import math
from collections.abc import Mapping, Sequence

from msgspec import structs

from shoal.backends import BaseModel
from shoal.batch.runner import window_for
from shoal.planning.figures import Figure, ModelPlan, whole
from shoal.planning.pilot import Measured
from shoal.planning.predicting import predicted


def narrowed(plan: ModelPlan, measured: Measured, rest: int) -> ModelPlan:
    """The figures of one model over `rest` rows."""
    calls = narrowed_calls(plan.calls, measured.values("calls", plan.model), rest, plan.kept)
    wire = plan.wire_requests
    if calls != plan.calls:
        wire = whole(calls.times(measured.wire_a_call.get(plan.model, 1.0))).within(wire)
    prompt = _tokens(measured, "prompt_tokens", plan, calls, rest)
    completion = _tokens(measured, "completion_tokens", plan, calls, rest)
    if plan.completion_tokens.source != "assumption":
        completion = completion.within(plan.completion_tokens)
    return structs.replace(plan, calls=calls, wire_requests=wire, prompt_tokens=prompt, completion_tokens=completion)


def narrowed_calls(calls: Figure, seen: Sequence[float], rest: int, kept: int) -> Figure:
    """What the calls of `rest` rows come to, after the `seen` calls of others; `kept` of them come for nothing."""
    if calls.least == calls.most and calls.source != "dry run":
        return calls
    low, high = predicted(seen, rest, least=(calls.least + kept) / rest, most=(calls.most + kept) / rest)
    figure = Figure(max(0.0, low - kept), max(0.0, high - kept), "pilot")
    return whole(figure if calls.source == "dry run" else figure.within(calls))  # what dry runs did bounds nothing


def _tokens(measured: Measured, what: str, plan: ModelPlan, calls: Figure, rest: int) -> Figure:
    seen, seen_calls = measured.values(what, plan.model), sum(measured.values("calls", plan.model))
    low, high = predicted(seen, rest)
    each = sum(seen) / seen_calls if seen_calls else 0.0
    # Where calls may go on for longer than any that were seen, so may their tokens.
    low, high = min(low, (calls.least + plan.kept) * each), max(high, (calls.most + plan.kept) * each)
    middle = (calls.least + calls.most) / 2
    share = middle / (middle + plan.kept) if middle else 0.0
    return whole(Figure(max(0.0, low) * share, high * share, "pilot"))


def measured_seconds(
    measured: Measured, rest: int, models: Sequence[ModelPlan], path: Figure, bases: Mapping[str, BaseModel]
) -> Figure | None:
    """Seconds for the rows that are left; None where the pilot's came from the cache and took none.

    At the least, as many rows as the models take at once each take as long as the pilot's did; at the most, more rows
    at once than the pilot had help nothing, as on one processor that was busy already.
    """
    if not measured.timed:
        return None
    ran = len(measured.report.rows)
    at_once = float(window_for(bases.values()))
    for model in models:
        wires = model.wire_requests.most / rest / max(path.most, 1)  # of one row, at once
        at_once = min(at_once, bases[model.model].scheduler.max_in_flight / max(wires, 1e-9))
    least = measured.row_seconds * max(1.0, rest / max(at_once, ran))
    return Figure(least, max(least, measured.report.seconds * math.ceil(rest / ran)), "pilot")


def predicted_seconds(measured: Measured, calls: Figure, steps: Figure) -> Figure | None:
    """Seconds for so many calls in so many rounds: from all of a round at once to no more at once than in the pilot."""
    paid = sum(measured.values("calls"))
    if not measured.timed or not paid:
        return None
    one = measured.row_seconds / (paid / len(measured.rows))
    least = steps.least * one
    return Figure(least, max(least, calls.most * measured.report.seconds / paid, steps.most * one), "pilot")
