"""What a comparison will cost by a provider's batch API."""

import math
from collections.abc import Sequence

from msgspec import structs

from shoal.evaluation.comparing.arms import Candidate
from shoal.evaluation.comparing.planning import ComparisonPlan, Terms
from shoal.planning import Figure, Plan
from shoal.planning.waves import in_waves
from shoal.techniques.opening import bases


def by_batch(terms: Terms, plan: ComparisonPlan, arms: Sequence[Candidate]) -> ComparisonPlan:
    """The plan of the same calls as they travel, all arms by the same waves; as it is where they go live."""
    if terms.travel is None:
        return plan
    models = list(bases([*(arm.model for arm in arms), *terms.asked.scorer.models]))
    alone = [structs.replace(arm, plan=in_waves(arm.plan, models, terms.prices, terms.travel)) for arm in plan.arms]
    rows = max(1, terms.travel.rows // len(arms))
    travel = structs.replace(terms.travel, rows=rows, more=_searching(plan) + _rating(terms, plan.total, arms, rows))
    return structs.replace(plan, arms=tuple(alone), total=in_waves(plan.total, models, terms.prices, travel))


def at_batch_price(terms: Terms, plan: Plan, arms: Sequence[Candidate]) -> Plan:
    """The plan as an equal budget counts it: all calls that travel are at the price of the batch API."""
    if terms.travel is None:
        return plan
    models = bases([arm.model for arm in arms])
    return in_waves(plan, models, terms.prices, structs.replace(terms.travel, tail_live=0))


def _searching(plan: ComparisonPlan) -> Figure:
    """The waves of sizes that are tried before the arms begin."""
    if plan.sizing is None:
        return Figure(0, 0, "exact")
    return plan.total.path.times(plan.sizing.tries.least, plan.sizing.tries.most)


def _rating(terms: Terms, total: Plan, arms: Sequence[Candidate], rows: int) -> Figure:
    """The waves in which a model rates the answers of smaller sizes, when the arms have ended."""
    curves = terms.asked.scorer.models and any(arm.sizes for arm in arms)
    return Figure(0, math.ceil(total.left / rows), "dry run") if curves else Figure(0, 0, "exact")
