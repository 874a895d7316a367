"""Whose word a price is, and what is said where there is none."""

import socket
import sys
from pathlib import Path

import pytest

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint, load_config, without_keys
from shoal.backends.prices import NoPrice, Price, Quote, cost_of, paid, prices_of, quote
from shoal.backends.routing import routing
from shoal.errors import UsageError
from shoal.runtime.types import Usage
from shoal.techniques.opening import bases, open_model


def opened(spec: str, config: Config | None = None) -> BaseModel:
    return next(bases(open_model(spec, cache=False, config=without_keys(config or Config()))))


def test_the_library_knows_a_model_by_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a price was fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    found = quote(opened("openai/gpt-4o-mini"), {})
    assert isinstance(found, Quote)
    assert found.least == found.most == Price(0.15, 0.6)
    assert found.source.startswith("genai-prices ")


@pytest.mark.parametrize("spec", ["openai/no-such-model", "lab/gpt-4o-mini"])
def test_a_model_without_a_price_is_said_plainly(spec: str) -> None:
    config = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1")})  # speaks the API, and is not that company's
    found = quote(opened(spec, config), {})
    assert found == NoPrice(f'{spec}: price unknown; name it in [prices."{spec}"] of shoal.toml')


def test_the_configuration_stands_before_the_library() -> None:
    found = quote(opened("openai/gpt-4o-mini"), {"openai/gpt-4o-mini": Price(1.0, 2.0)})
    assert found == Quote(Price(1.0, 2.0), Price(1.0, 2.0), "[prices]")


def test_a_model_on_this_machine_costs_nothing(at_home: Path) -> None:
    (at_home / "m.py").write_text("def f(request):\n    return 'x'\n")
    found = quote(opened("scripted/m.py:f"), {})
    assert isinstance(found, Quote)
    assert found.most == Price(0.0, 0.0)


def test_several_behind_one_name_cost_as_the_cheapest_to_the_dearest() -> None:
    places = {name: Endpoint(f"http://127.0.0.1:{port}/v1") for name, port in (("a", 9), ("b", 10))}
    both = {"both": routing("both", {"endpoints": ["a/m", "b/m"]}, "[models.both]")}
    base = opened("both", Config(endpoints=places, models=both))
    assert isinstance(quote(base, {"a/m": Price(1.0, 4.0)}), NoPrice)
    found = quote(base, {"a/m": Price(1.0, 4.0), "b/m": Price(2.0, 3.0)})
    assert found == Quote(Price(1.0, 3.0), Price(2.0, 4.0), "[prices]")
    assert quote(base, {"both": Price(5.0, 6.0)}) == Quote(Price(5.0, 6.0), Price(5.0, 6.0), "[prices]")


def test_a_batch_costs_what_is_said_else_what_the_library_says_else_the_endpoints_part_of_it() -> None:
    mini = opened("openai/gpt-4o-mini")
    assert quote(mini, {}, by_batch=True) == Quote(Price(0.075, 0.3), Price(0.075, 0.3), of_library(mini).source)
    given = {"openai/gpt-4o-mini": Price(1.0, 2.0, batch_output=1.5)}
    assert quote(mini, given, by_batch=True) == Quote(Price(0.5, 1.5), Price(0.5, 1.5), "[prices]")
    config = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1", batch_price=0.8)})
    found = quote(opened("lab/m", config), {"lab/m": Price(1.0, 2.0)}, by_batch=True)
    assert found == Quote(Price(0.8, 1.6), Price(0.8, 1.6), "[prices]")
    old = opened("openai/gpt-4-32k")  # of which the library knows no price for batches
    assert of_library(old, by_batch=True).most == of_library(old).most.by_batch(0.5)


def of_library(base: BaseModel, *, by_batch: bool = False) -> Quote:
    found = quote(base, {}, by_batch=by_batch)
    assert isinstance(found, Quote)
    return found


def test_a_batch_over_several_models_costs_what_each_of_theirs_does() -> None:
    places = {
        "a": Endpoint("http://127.0.0.1:9/v1", batch_price=0.1),
        "b": Endpoint("http://127.0.0.1:10/v1", batch_price=1.0),
    }
    both = {"both": routing("both", {"endpoints": ["a/m", "b/m"]}, "[models.both]")}
    base = opened("both", Config(endpoints=places, models=both))
    prices = {"a/m": Price(10.0, 20.0), "b/m": Price(2.0, 3.0)}
    assert quote(base, prices, by_batch=True) == Quote(Price(1.0, 2.0), Price(2.0, 3.0), "[prices]")


def test_what_was_paid_is_known_where_the_models_have_one_price() -> None:
    used = Usage(1_000_000, 500_000, 3, batch_prompt_tokens=400_000, batch_completion_tokens=500_000)
    lab = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1")})
    one, other = opened("lab/one", lab), opened("lab/other", lab)
    assert paid([one], used) is None
    one.prices = {"lab/one": Price(1.0, 4.0)}
    assert paid([one], used) == pytest.approx(0.6 + 0.2 + 1.0)
    other.prices = {"lab/other": Price(1.0, 3.0)}
    assert paid([one, other], used) is None
    other.prices = {"lab/other": Price(1.0, 4.0)}
    assert paid([one, other], used) == pytest.approx(1.8)


def test_without_the_library_the_price_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    found = quote(opened("openai/gpt-4o-mini"), {})
    assert isinstance(found, NoPrice)
    assert "pip install 'shoal[prices]'" in found.reason


def test_what_is_wrong_in_a_table_is_named(at_home: Path) -> None:
    (at_home / "shoal.toml").write_text("[prices.m]\ninput = -1\noutput = 2\n")
    with pytest.raises(UsageError, match=r"shoal.toml \[prices.m\]: .*input"):
        prices_of(load_config())


def test_cost_is_per_million_and_unknown_where_one_is() -> None:
    usages = [("m", Usage(1_000_000, 500_000, 3)), ("other", Usage(10, 10, 1))]
    assert cost_of(usages[:1], {"m": Price(1.0, 4.0)}) == pytest.approx(3.0)
    assert cost_of(usages, {"m": Price(1.0, 4.0)}) is None


def test_keys_are_needed_by_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1", "${NO_SUCH_KEY}", rpm=6)})
    with pytest.raises(UsageError, match="NO_SUCH_KEY"):
        open_model("lab/m", cache=False, config=config)
    base = opened("lab/m", config)
    monkeypatch.setenv("NO_SUCH_KEY", "sk-1")
    keyed = next(bases(open_model("lab/m", cache=False, config=config)))
    assert base.backend.identity == keyed.backend.identity  # so that draws of the cache are found
    assert base.limits.rpm == 6
