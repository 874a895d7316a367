"""What a run will cost whose calls travel by a provider's batch API: its price, its waves, and how long these take."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from shoal.backends import BaseModel
from shoal.backends.prices import Price, Quote, quote
from shoal.errors import UsageError
from shoal.planning.figures import Figure, ModelPlan, Plan, total
from shoal.traces import words

if TYPE_CHECKING:
    from shoal.backends.waves import WaveSettings

_QUICKEST = 2.0  # seconds of a wave, from the last call that joins it to the first look at what it brought
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Travel(Struct, frozen=True):
    """How calls travel: those of `models`, by name, in waves that are back within `window` seconds.

    A wave of at most `tail_live` calls is asked live instead, and at most `rows` rows sleep at once. `more` waves are
    none of the rows'.
    """

    models: Collection[str]
    tail_live: int = 0
    rows: int = 50_000
    window: float = 86400.0
    more: Figure = Figure(0, 0, "exact")


def window_seconds(text: str) -> float:
    """The seconds of a completion window such as `24h`."""
    match = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if match is None or not int(match[1]):
        raise UsageError(f"completion window {text!r}: write 24h, or what else the provider takes")
    return int(match[1]) * _UNITS[match[2]]


def travel_of(models: Iterable[BaseModel], settings: "WaveSettings") -> Travel:
    """How the calls of these models travel."""
    names = {base.name for base in models}
    return Travel(names, settings.tail_live, settings.rows, window_seconds(settings.window))


def in_waves(plan: Plan, bases: Iterable[BaseModel], prices: Mapping[str, Price], travel: Travel) -> Plan:
    """The plan of the same calls by the batch API. Its `dollars` are at that price, `live_dollars` as they were."""
    if not plan.left:
        return plan
    opened = {base.name: base for base in bases}
    travelling = [model for model in plan.models if model.model in travel.models]
    calls = total(model.calls for model in travelling)
    rounds = math.ceil(plan.left / travel.rows)
    all_live = calls.most <= travel.tail_live
    waves = Figure(0, 0, "exact") if all_live else plan.path.times(rounds) + travel.more
    tail = _tail(calls, plan.path.times(rounds), travel.tail_live)
    models = tuple(
        _by_batch(model, opened[model.model], prices, tail / calls.most if calls.most else 0.0)
        if model.model in travel.models
        else model
        for model in plan.models
    )
    return structs.replace(
        plan,
        models=models,
        waves=waves,
        dollars=_sum(models, plan),
        live_dollars=plan.dollars,
        seconds=plan.seconds if all_live else _seconds(plan, waves, travel),
        notes=(*plan.notes, *_notes(waves, tail, travel)),
    )


def _tail(calls: Figure, waves: Figure, tail_live: int) -> float:
    """Calls that may go live, at the most: all of a small run, else so many a wave, but none of one large wave."""
    if waves.most <= 1 and calls.least > tail_live:
        return 0.0
    return min(calls.most, tail_live * max(waves.most, 1.0))


def _by_batch(plan: ModelPlan, base: BaseModel, prices: Mapping[str, Price], live_share: float) -> ModelPlan:
    """The plan of a model at its batch price, but for the share of its calls that may be live."""
    found = quote(base, prices, by_batch=True)
    if not isinstance(found, Quote) or plan.dollars is None or live_share == 1:
        return plan
    prompt, completion = plan.prompt_tokens, plan.completion_tokens
    least = found.least.dollars(prompt.least, completion.least)
    most = found.most.dollars(prompt.most, completion.most)
    most += live_share * max(0.0, plan.dollars.most - most)
    source = "assumption" if live_share else plan.dollars.source
    price = Quote(found.least, found.most, f"{found.source}, by batch")
    return structs.replace(plan, dollars=Figure(least, most, source), price=price)


def _sum(models: Sequence[ModelPlan], plan: Plan) -> Figure | None:
    """Of all models: where replies decide which is asked, their figures may add up to more than all calls live cost."""
    if plan.dollars is None:
        return None
    now = [model.dollars for model in models if model.dollars is not None]
    before = [model.dollars for model in plan.models if model.dollars is not None]
    summed = total(now)
    if len(now) == 1 or any(one.most > other.most for one, other in zip(now, before, strict=True)):
        return summed
    return Figure(min(summed.least, plan.dollars.least), min(summed.most, plan.dollars.most), summed.source)


def _seconds(plan: Plan, waves: Figure, travel: Travel) -> Figure:
    beside = plan.seconds.most if plan.seconds is not None and len(plan.models) > len(travel.models) else 0.0
    return Figure(waves.least * _QUICKEST, waves.most * travel.window + beside, "assumption")


def _notes(waves: Figure, tail: float, travel: Travel) -> Iterable[str]:
    if not waves.most:
        yield f"all calls are within --tail-live {travel.tail_live}: they go live, at the live price"
        return
    window = words.seconds(travel.window)
    yield f"a wave is back within {window}, mostly much sooner; calls that it brings no answer to travel again"
    if tail:
        yield f"up to {words.count(math.ceil(tail))} calls of small waves go live (--tail-live), at the live price"
