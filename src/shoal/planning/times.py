"""How long a run takes, where nothing was measured: what servers usually manage, and what their limits allow."""

from collections.abc import Mapping, Sequence

from shoal.backends import BaseModel
from shoal.backends.places import in_process
from shoal.planning.figures import Figure, ModelPlan

# Seconds before the first token and tokens a second of one reply: of a quick server, and of a slow one.
_QUICK = (0.2, 200.0)
_SLOW = (2.0, 25.0)


def assumed_seconds(models: Sequence[ModelPlan], steps: Figure, bases: Mapping[str, BaseModel]) -> Figure | None:
    """Seconds for so many steps, by assumption; None for a model on this machine, which may be as slow as it is."""
    if any(in_process(bases[model.model]) for model in models):
        return None
    calls = sum(model.calls.most for model in models)
    longest = sum(model.completion_tokens.most for model in models) / calls if calls else 0.0
    least = steps.least * (_QUICK[0] + 1 / _QUICK[1])
    most = steps.most * (_SLOW[0] + longest / _SLOW[1])
    return Figure(least, most, "assumption")


def limited(seconds: Figure, models: Sequence[ModelPlan], bases: Mapping[str, BaseModel]) -> Figure:
    """The seconds, no fewer than the limits of rpm and tpm make them."""
    least, most = seconds.least, seconds.most
    for model in models:
        limits = bases[model.model].limits
        for figure, a_minute in ((model.wire_requests, limits.rpm), (model.tokens, limits.tpm)):
            if a_minute:
                least, most = max(least, 60 * figure.least / a_minute), max(most, 60 * figure.most / a_minute)
    return Figure(least, most, seconds.source)
