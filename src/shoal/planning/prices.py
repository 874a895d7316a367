"""What models cost in dollars: by [prices] of the configuration, else by the library genai-prices.

[prices."openai/gpt-x"]              # dollars a million tokens
input = 0.15
output = 0.60
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Annotated, Any

from msgspec import Meta, Struct

from shoal.backends import BaseModel
from shoal.backends.config import Config
from shoal.backends.router import Router
from shoal.backends.tables import tables_as
from shoal.planning.places import in_process
from shoal.runtime.trace import Span
from shoal.runtime.types import Usage

_TOKENS = 1_000_000  # prices are for as many
Amount = Annotated[float, Meta(ge=0)]


class Price(Struct, frozen=True):
    """Dollars a million tokens."""

    input: Amount
    output: Amount

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / _TOKENS


class Quote(Struct, frozen=True):
    """A model's price and whose word it is; `most` is above `least` where it depends on who of several answers."""

    least: Price
    most: Price
    source: str


_FREE = Price(0.0, 0.0)


class NoPrice(Struct, frozen=True):
    """Why a model's price is not known, and what to do."""

    reason: str


def prices_of(config: Config) -> dict[str, Price]:
    """The prices in a configuration, by the names of models; UsageError names the key that is wrong."""
    return tables_as(Price, config.prices, f"{config.file} [prices")


def cost_of(usages: Iterable[tuple[str, Usage]], prices: Mapping[str, Price]) -> float | None:
    """The dollars that usages of models, by name, come to; None where one of the models has no price."""
    dollars = 0.0
    for name, usage in usages:
        price = prices.get(name)
        if price is None:
            return None
        dollars += price.dollars(usage.prompt_tokens, usage.completion_tokens)
    return dollars


def usages_of(trace: Span) -> list[tuple[str, Usage]]:
    """The usage of every call of a tree, by the name of the model that was asked."""
    return [(call.name, call.completion.usage) for call in trace.calls() if call.completion is not None]


def quote(base: BaseModel, prices: Mapping[str, Price]) -> Quote | NoPrice:
    """What a base model costs: by `prices`, nothing where it runs in this process, else by the library.

    Nothing is fetched: the library holds the prices of its release. It knows a model by the address of its server, so
    that one which speaks the API of another company is not taken for that company's.
    """
    if (given := prices.get(base.name)) is not None:
        return Quote(given, given, "[prices]")
    backend = base.backend
    if isinstance(backend, Router):
        return _of_several([quote(member.model, prices) for member in backend.members])
    if in_process(base):
        return Quote(_FREE, _FREE, "runs on this machine")
    from shoal.backends.openai import OpenAIBackend  # and aiohttp with it, which models on this machine do without

    if not isinstance(backend, OpenAIBackend):
        return NoPrice(f"{base.name}: price unknown; {_advice(base.name)}")
    return _listed(base.name, backend.base_url)


def _advice(name: str) -> str:
    return f'name it in [prices."{name}"] of shoal.toml'


def _of_several(quotes: list[Quote | NoPrice]) -> Quote | NoPrice:
    known = [each for each in quotes if isinstance(each, Quote)]
    if len(known) < len(quotes):
        return next(each for each in quotes if isinstance(each, NoPrice))
    least = Price(min(each.least.input for each in known), min(each.least.output for each in known))
    most = Price(max(each.most.input for each in known), max(each.most.output for each in known))
    return Quote(least, most, ", ".join(dict.fromkeys(each.source for each in known)))


def _listed(name: str, base_url: str) -> Quote | NoPrice:
    """The library's price of a model on a server."""
    unknown = NoPrice(f"{name}: price unknown; {_advice(name)}")
    try:
        import genai_prices
    except ImportError:
        return NoPrice(f"{unknown.reason}, or pip install 'shoal[prices]'")
    try:
        usage = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
        found = genai_prices.calc_price(usage, name.partition("/")[2], provider_api_url=base_url).model_price
    except (LookupError, ValueError):
        return unknown
    if found.input_mtok is None or found.output_mtok is None:  # sold otherwise than by the token
        return unknown
    price = Price(_of_short_prompts(found.input_mtok), _of_short_prompts(found.output_mtok))
    return Quote(price, price, f"genai-prices {version('genai-prices')}")


def _of_short_prompts(price: Any) -> float:
    """Dollars a million tokens; some models are dearer for prompts of hundreds of thousands of tokens."""
    return float(getattr(price, "base", price))
