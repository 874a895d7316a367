"""What calls cost in dollars, where the operator said what models cost."""

from collections.abc import Iterable, Mapping

from shoal.runtime.trace import Span
from shoal.runtime.types import Usage
from shoal.server.settings import Price

_TOKENS = 1_000_000  # prices are for as many


def cost_of(usages: Iterable[tuple[str, Usage]], prices: Mapping[str, Price]) -> float | None:
    """The dollars that usages of models, by name, come to; None where one of the models has no price."""
    dollars = 0.0
    for name, usage in usages:
        price = prices.get(name)
        if price is None:
            return None
        dollars += (usage.prompt_tokens * price.input + usage.completion_tokens * price.output) / _TOKENS
    return dollars


def usages_of(trace: Span) -> list[tuple[str, Usage]]:
    """The usage of every call of a tree, by the name of the model that was asked."""
    return [(call.name, call.completion.usage) for call in trace.calls() if call.completion is not None]
