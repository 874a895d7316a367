"""An equal budget before anything is asked: which sizes may come of it, and what it costs to find them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct, structs

from shoal.batch.rows import Row
from shoal.evaluation.comparing.arms import Candidate
from shoal.evaluation.comparing.budgeting import EqualBudget, at_size, largest, pilot_rows, size_key
from shoal.evaluation.comparing.planning import (
    ArmPlan,
    ComparisonPlan,
    Sizing,
    Terms,
    joined_total,
    plan_alone,
    plan_total,
)
from shoal.evaluation.comparing.planning_waves import at_batch_price
from shoal.evaluation.comparing.sizes import resized, size_of
from shoal.planning import Figure, Plan
from shoal.planning.figures import ModelPlan, least_sure
from shoal.runtime import scope
from shoal.runtime.model import Model

P = TypeVar("P", Plan, ModelPlan)
_FIGURES = (
    "calls", "wire_requests", "path", "steps", "prompt_tokens", "completion_tokens", "seconds", "dollars"
)  # fmt: skip
_UNCERTAIN = "the sizes depend on what replies cost: --pilot asks the first rows, and chooses as the comparison would"


class _Search(Struct, frozen=True):
    """A search for the largest size within the budget: what it tried, and what it came to."""

    size: int
    tried: tuple[int, ...]


class _Reach(Struct, frozen=True):
    """A candidate between the size that is found where every reply is as dear as may be, and where all are cheap."""

    candidate: Candidate
    dear: _Search
    cheap: _Search


async def plan_sized(
    terms: Terms, arms: Sequence[Candidate], equal: EqualBudget, rows: int, known: Mapping[str, int]
) -> ComparisonPlan:
    """The plan of a comparison at an equal budget; `known` are sizes that were chosen before, as `read_sizes` gives."""
    chosen = pilot_rows(terms.asked, rows)
    reaches = [await _reach(terms, arm, equal, [row for _, row in chosen], known) for arm in arms]
    least = await _at(terms, [(reach.candidate, reach.dear) for reach in reaches], chosen)
    most = await _at(terms, [(reach.candidate, reach.cheap) for reach in reaches], chosen)
    sizes = {
        reach.candidate.name: (reach.dear.size, reach.cheap.size) for reach in reaches if size_of(reach.candidate.model)
    }
    alone = [
        ArmPlan(one.name if one.name == other.name else arm.name, _spanned(one.plan, other.plan))
        for arm, one, other in zip(arms, least.arms, most.arms, strict=True)
    ]
    total = _spanned(least.total, most.total)
    if any(low < high for low, high in sizes.values()):
        total = structs.replace(total, notes=(*total.notes, _UNCERTAIN))
    assert least.sizing is not None
    assert most.sizing is not None
    calls = Figure(least.sizing.calls.least, most.sizing.calls.most, "dry run")
    tries = [
        max((len(search.tried) for search in searches), default=0)
        for searches in ([reach.dear for reach in reaches], [reach.cheap for reach in reaches])
    ]
    return ComparisonPlan(
        tuple(alone), total, Sizing(len(chosen), calls, sizes, Figure(min(tries), max(tries), "dry run"))
    )


async def _at(
    terms: Terms, searches: Sequence[tuple[Candidate, _Search]], chosen: Sequence[tuple[int, Row]]
) -> ComparisonPlan:
    """The plan where the searches come out like this: their rows are asked for every size that is tried."""
    tried = {id(arm): [resized(arm.model, n) for n in search.tried] for arm, search in searches}
    final = {id(arm): _sized(arm, search.size) for arm, search in searches}
    numbers = {number for number, _ in chosen}
    arms = [arm for arm, _ in searches]
    rows = [row for _, row in chosen]
    search = await plan_total(structs.replace(terms, kept=()), arms, lambda arm: tried[id(arm)], rows)
    alone = [ArmPlan(arm.name, await plan_alone(terms, arm.model)) for arm in final.values()]

    def models_of(arm: Candidate) -> list[Model]:
        return [final[id(arm)].model, *(tried[id(arm)] if scope.age.get() in numbers else ())]

    total = await plan_total(terms, arms, models_of)
    total = joined_total(terms, arms, total, [*(arm.plan for arm in alone), search])
    return ComparisonPlan(tuple(alone), total, Sizing(len(rows), search.calls, {}))


async def _reach(
    terms: Terms, arm: Candidate, equal: EqualBudget, rows: Sequence[Row], known: Mapping[str, int]
) -> _Reach:
    if size_of(arm.model) is None:
        as_it_is = _Search(1, ())
        return _Reach(arm, as_it_is, as_it_is)
    if (chosen := known.get(size_key(equal, len(rows), arm))) is not None:
        found = _Search(chosen, ())
        return _Reach(arm, found, found)
    plans: dict[int, Plan] = {}

    async def search(*, cheap: bool) -> _Search:
        tried: list[int] = []

        async def cost(n: int) -> float:
            tried.append(n)
            if n not in plans:
                plan = await plan_alone(terms, resized(arm.model, n), rows)
                plans[n] = at_batch_price(terms, plan, [arm])
            cost = _of(plans[n], equal)
            return (cost.least if cheap else cost.most) / len(rows)

        return _Search(await largest(cost, equal.amount), tuple(tried))

    return _Reach(arm, await search(cheap=False), await search(cheap=True))


def _of(plan: Plan, equal: EqualBudget) -> Figure:
    figure = {"calls": plan.calls, "tokens": plan.tokens, "dollars": plan.dollars}[equal.unit]
    assert figure is not None  # a budget in dollars was refused where a price is unknown
    return figure


def _sized(arm: Candidate, size: int) -> Candidate:
    return at_size(arm, size) if size_of(arm.model) else arm


def _spanned(least: P, most: P) -> P:
    """From what one plan needs to what another does."""
    figures = {name: _span(getattr(least, name), getattr(most, name)) for name in _FIGURES if hasattr(least, name)}
    if isinstance(least, Plan) and isinstance(most, Plan):
        others = {model.model: model for model in most.models}
        figures["models"] = tuple(_spanned(model, others.get(model.model, model)) for model in least.models)
        figures["notes"] = tuple(dict.fromkeys((*least.notes, *most.notes)))
    return structs.replace(least, **figures)


def _span(least: Figure | None, most: Figure | None) -> Any:
    if least is None or most is None:
        return None
    sources = (least.source, most.source, *(() if least == most else ("dry run",)))
    return Figure(min(least.least, most.least), max(least.most, most.most), least_sure(sources))
