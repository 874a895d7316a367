"""What a run will cost that shares one budget out among its rows: the budget bounds it."""

from msgspec import structs

from shoal.planning.figures import Figure, ModelPlan, Plan
from shoal.runtime.budget import Budget


def within_budget(plan: Plan, budget: Budget) -> Plan:
    """The plan of votes with as many samples as they can get, held to a budget of calls or tokens for all of them."""
    calls, tokens = budget.calls, budget.tokens
    models = tuple(_within(model, calls, tokens) for model in plan.models)
    dearest = max(map(_dearest, models), default=0.0)
    limits = " and ".join(f"{n:,} {unit}" for n, unit in ((calls, "calls"), (tokens, "tokens")) if n is not None)
    return structs.replace(
        plan,
        calls=_at_most(plan.calls, calls),
        wire_requests=_at_most(plan.wire_requests, calls),
        steps=_at_most(plan.steps, calls),
        prompt_tokens=_at_most(plan.prompt_tokens, tokens),
        completion_tokens=_at_most(plan.completion_tokens, tokens),
        dollars=_dollars(plan.dollars, tokens, dearest),
        models=models,
        notes=(*plan.notes, f"{limits} are shared out, prompts and completions together: no more is spent"),
    )


def _within(model: ModelPlan, calls: int | None, tokens: int | None) -> ModelPlan:
    return structs.replace(
        model,
        calls=_at_most(model.calls, calls),
        wire_requests=_at_most(model.wire_requests, calls),
        prompt_tokens=_at_most(model.prompt_tokens, tokens),
        completion_tokens=_at_most(model.completion_tokens, tokens),
        dollars=_dollars(model.dollars, tokens, _dearest(model)),
    )


def _dollars(figure: Figure | None, tokens: int | None, dearest: float) -> Figure | None:
    """No more than all of the tokens cost at the dearest price."""
    return figure if figure is None or tokens is None else _at_most(figure, tokens / 1e6 * dearest)


def _dearest(model: ModelPlan) -> float:
    """Dollars of a million of its dearer tokens."""
    return max(model.price.most.input, model.price.most.output) if model.price else 0.0


def _at_most(figure: Figure, limit: float | None) -> Figure:
    if limit is None or figure.most <= limit:
        return figure
    return Figure(min(figure.least, limit), limit, figure.source)
