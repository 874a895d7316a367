"""What models cost in dollars: by [prices] of the configuration, else by the library genai-prices.

[prices."openai/gpt-x"]              # dollars a million tokens
input = 0.15
output = 0.60
batch_input = 0.075                  # by the provider's batch API; default: half of it, or the endpoint's batch_price
batch_output = 0.30
"""

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from shoal.backends.config import Config
from shoal.backends.tables import tables_as
from shoal.runtime.budget import Rates
from shoal.runtime.trace import Span
from shoal.runtime.types import Usage

if TYPE_CHECKING:
    from shoal.backends import BaseModel

_TOKENS = 1_000_000  # prices are for as many
Amount = Annotated[float, Meta(ge=0, le=1e9)]


class Price(Struct, frozen=True, omit_defaults=True):
    """Dollars a million tokens; those of a batch API only where somebody says them."""

    input: Amount
    output: Amount
    batch_input: Amount | None = None
    batch_output: Amount | None = None

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What tokens cost that are asked for live."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / _TOKENS

    def by_batch(self, part: float) -> "Price":
        """What the same tokens cost by a batch API: as is said, else that part of the live price."""
        input_ = self.input * part if self.batch_input is None else self.batch_input
        return Price(input_, self.output * part if self.batch_output is None else self.batch_output)


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


def quote(base: "BaseModel", prices: Mapping[str, Price], *, by_batch: bool = False) -> Quote | NoPrice:
    """What a base model costs: by `prices`, nothing where it runs in this process, else by the library.

    Nothing is fetched: the library holds the prices of its release. It knows a model by the address of its server, so
    that one which speaks the API of another company is not taken for that company's. With `by_batch` it is what the
    model costs by its provider's batch API.
    """
    from shoal.backends.places import in_process  # and the engines with it
    from shoal.backends.router import Router

    if (given := prices.get(base.name)) is not None:
        price = given.by_batch(base.batch_price) if by_batch else given
        return Quote(price, price, "[prices]")
    backend = base.backend
    if isinstance(backend, Router):
        return _of_several([quote(member.model, prices, by_batch=by_batch) for member in backend.members])
    if in_process(base):
        return Quote(_FREE, _FREE, "runs on this machine")
    from shoal.backends.openai import OpenAIBackend  # and aiohttp with it, which models on this machine do without

    if not isinstance(backend, OpenAIBackend):
        return NoPrice(f"{base.name}: price unknown; {_advice(base.name)}")
    return _listed(base.name, backend.base_url, base.batch_price if by_batch else None)


def _advice(name: str) -> str:
    return f'name it in [prices."{name}"] of shoal.toml'


def _of_several(quotes: list[Quote | NoPrice]) -> Quote | NoPrice:
    known = [each for each in quotes if isinstance(each, Quote)]
    if len(known) < len(quotes):
        return next(each for each in quotes if isinstance(each, NoPrice))
    least = Price(min(each.least.input for each in known), min(each.least.output for each in known))
    most = Price(max(each.most.input for each in known), max(each.most.output for each in known))
    return Quote(least, most, ", ".join(dict.fromkeys(each.source for each in known)))


def _listed(name: str, base_url: str, batch_part: float | None) -> Quote | NoPrice:
    """The library's price of a model on a server; with `batch_part` of its batch API, or that part of the other."""
    unknown = NoPrice(f"{name}: price unknown; {_advice(name)}")
    try:
        import genai_prices
    except ImportError:
        return NoPrice(f"{unknown.reason}, or pip install 'shoal[prices]'")

    def listed(**context: str) -> Any:
        usage = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
        model = name.partition("/")[2]
        return genai_prices.calc_price(usage, model, provider_api_url=base_url, price_context=context).model_price

    try:
        live = found = listed()
        if batch_part is not None:
            found = listed(processing="batch")
    except (LookupError, ValueError):
        return unknown
    if found.input_mtok is None or found.output_mtok is None:  # sold otherwise than by the token
        return unknown
    price = Price(_of_short_prompts(found.input_mtok), _of_short_prompts(found.output_mtok))
    if batch_part is not None and found == live:  # the library knows no other price for a batch
        price = price.by_batch(batch_part)
    return Quote(price, price, f"genai-prices {version('genai-prices')}")


def _of_short_prompts(price: Any) -> float:
    """Dollars a million tokens; some models are dearer for prompts of hundreds of thousands of tokens."""
    return float(getattr(price, "base", price))


def rates_of(base: "BaseModel", prices: Mapping[str, Price]) -> Rates | NoPrice:
    """What a token of a model costs at the most, as a budget counts it."""
    live, batch = quote(base, prices), quote(base, prices, by_batch=True)
    if isinstance(live, NoPrice):
        return live
    assert isinstance(batch, Quote)
    one, other = live.most, batch.most
    return Rates(*map(_picodollars, (one.input, one.output, other.input, other.output)))


def paid(bases: "Iterable[BaseModel]", usage: Usage) -> float | None:
    """The dollars of a usage that is these models' together; None where a price is not known, or they differ in it."""
    rates = set()
    for base in bases:
        quoted, found = quote(base, base.prices), rates_of(base, base.prices)
        if isinstance(quoted, NoPrice) or isinstance(found, NoPrice) or quoted.least != quoted.most:
            return None
        rates.add(found)
    return rates.pop().of(usage) / 1e12 if len(rates) == 1 else None


def _picodollars(price: float) -> int:
    """Of one token, from dollars a million: whole, and never too few."""
    return int((Decimal(repr(price)) * _TOKENS).to_integral_value(ROUND_CEILING))
