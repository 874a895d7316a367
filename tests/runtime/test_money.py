"""A budget of dollars: never exceeded, whatever replies cost; exact sums; models without a price are refused."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.backends.prices import Price
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import BudgetExceeded, ServerError, UsageError
from shoal.runtime import budget as budgets
from shoal.runtime.budget import Budget, Rates
from shoal.runtime.cache import DrawCache
from shoal.runtime.limits import most_tokens
from shoal.runtime.scope import setting
from shoal.runtime.types import Completion, Json, Message, Request, Usage, sampling_params
from shoal.techniques.opening import bases, open_model, refuse_unpriced
from shoal.traces import words

PRICE = Price(0.15, 0.6)
Outcomes = list[Completion | BaseException]


def model_of(script: Any, price: Price = PRICE, **options: Any) -> tuple[BaseModel, ScriptedBackend]:
    backend = ScriptedBackend(script)
    model = BaseModel(backend, retry=AT_ONCE, **options)
    model.prices = {model.name: price}
    return model, backend


def costing(prompt: int, completion: int) -> Any:
    return lambda _: Completion("x", usage=Usage(prompt, completion, 1))


def spend(budget: Budget, asked: list[tuple[BaseModel, Request]]) -> Outcomes:
    async def main() -> Outcomes:
        with setting(budgets.current, budget):
            return await asyncio.gather(*(model(request) for model, request in asked), return_exceptions=True)

    return run(main())


def asked(model: BaseModel, count: int, **params: Any) -> list[tuple[BaseModel, Request]]:
    return [(model, Request.of(f"{i:04}", **params)) for i in range(count)]


def exceeded(outcomes: Outcomes) -> int:
    return sum(isinstance(outcome, BudgetExceeded) for outcome in outcomes)


def test_dollars_are_reserved_at_the_most_and_corrected() -> None:
    """A call may take (36 x $1 + 64 x $1) / a million = $0.0001 and takes a tenth: of $0.00025, 16 fit."""
    model, backend = model_of(costing(5, 5), Price(1.0, 1.0))
    budget = Budget(dollars=0.00025)
    outcomes = spend(budget, asked(model, 40, max_tokens=64))
    assert len(backend.requests) == 40 - exceeded(outcomes) == 16
    assert budget.spent_dollars == pytest.approx(0.00016)
    assert str(outcomes[-1]) == "the budget of $0.00025 is spent ($0.00016 used, the next call may need $0.0001)"


def test_the_smallest_amounts_are_written_out() -> None:
    outcomes = spend(Budget(dollars=0.0000001), asked(model_of(costing(5, 5), Price(1.0, 1.0))[0], 1, max_tokens=64))
    assert str(outcomes[0]) == "the budget of $0.0000001 is spent ($0 used, the next call may need $0.0001)"
    assert words.dollars(6e-6) == "$0.000006"


def test_sums_are_exact_where_floats_are_not() -> None:
    """Ten calls of $0.1 are a dollar; floats would have ten of them at 0.9999999999999999, and allow one more."""
    model, _ = model_of(costing(0, 100), Price(0.0, 1000.0))
    budget = Budget(dollars=1)
    outcomes = spend(budget, asked(model, 12, max_tokens=100))
    assert exceeded(outcomes) == 2
    assert budget.spent_dollars == 1.0
    assert Budget.parse("dollars=0.1").dollars == 0.1
    assert sum([0.1] * 10) != 1.0


def test_cached_and_shared_draws_cost_nothing(tmp_path: Path) -> None:
    model, backend = model_of(costing(10, 10), cache=DrawCache(tmp_path / "c"))
    one = Request.of("a", max_tokens=10)
    budget = Budget(dollars=0.00002)
    assert not exceeded(spend(budget, [(model, one)] * 3))
    assert not exceeded(spend(budget, [(model, one)]))
    assert budget.spent_dollars == pytest.approx(7.5e-6)
    assert len(backend.requests) == 1


def test_a_model_that_costs_nothing_is_never_held_back() -> None:
    free, _ = model_of(costing(1000, 1000), Price(0.0, 0.0))
    dear, _ = model_of(costing(20, 100))
    budget = Budget(dollars=0.0001)
    assert exceeded(spend(budget, asked(dear, 5, max_tokens=100))) == 4
    assert not exceeded(spend(budget, asked(free, 5)))
    home, _ = model_of(costing(1000, 1000))
    home.prices = {}
    assert not exceeded(spend(Budget(dollars=0), asked(home, 5)))  # it runs in this process
    assert exceeded(spend(Budget(dollars=0), asked(dear, 1))) == 1


def test_a_failed_call_gives_its_reservation_back() -> None:
    def fails(request: Request) -> str:
        raise ServerError("broken", status=500)

    bad, _ = model_of(fails)
    good, backend = model_of(costing(1, 1))
    budget = Budget(dollars=0.0001)
    assert isinstance(spend(budget, asked(bad, 1, max_tokens=100))[0], ServerError)
    assert budget.spent_dollars == 0
    assert not exceeded(spend(budget, asked(good, 4, max_tokens=100)))
    assert len(backend.requests) == 4


def test_tokens_that_nobody_reported_are_estimated_and_paid() -> None:
    model, _ = model_of(lambda _: "twelve chars")
    budget = Budget(dollars=1)
    spend(budget, asked(model, 1))
    assert budget.spent.total_tokens > 0
    assert budget.spent_dollars == pytest.approx(Rates(150_000, 600_000).of(budget.spent) / 1e12)


def test_a_reply_dearer_than_it_could_be_ends_the_run() -> None:
    """A server that does not keep to max_tokens takes the budget over; after that no call is made."""
    model, backend = model_of(costing(10, 1_000_000))
    budget = Budget(dollars=0.01)

    async def main() -> None:
        with setting(budgets.current, budget):
            await model(Request.of("a", max_tokens=10))
            with pytest.raises(BudgetExceeded, match=r"\$0.6000015 used"):
                await model(Request.of("b", max_tokens=10))

    run(main())
    assert len(backend.requests) == 1


def test_a_price_that_is_unknown_is_said_before_anything_is_asked() -> None:
    config = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1")})
    model = open_model("self_consistency(n=2)@lab/m", cache=False, config=config)
    said = 'a budget in dollars needs prices: lab/m: price unknown; name it in [prices."lab/m"] of shoal.toml'
    with pytest.raises(UsageError) as error:
        refuse_unpriced(Budget(dollars=1), model)
    assert str(error.value) == said
    refuse_unpriced(Budget(calls=1), model)
    refuse_unpriced(None, model)
    (base,) = bases(model)
    with pytest.raises(UsageError) as error, setting(budgets.current, Budget(dollars=1)):
        run(base("Q"))
    assert str(error.value) == said
    priced = Config(endpoints=config.endpoints, prices={"lab/m": {"input": 1, "output": 2}})
    refuse_unpriced(Budget(dollars=1), open_model("lab/m", cache=False, config=priced))


def test_draws_by_batch_are_reserved_and_paid_at_its_price() -> None:
    price = Price(1.0, 1.0, 0.25, 0.5)
    model, _ = model_of(lambda _: Completion("x", usage=Usage(20, 100, 1).by_batch()), price)
    model.discount = 0.5
    budget = Budget(dollars=0.00024)  # a call takes $0.000055, and no more than $0.000059 is reserved for it
    assert exceeded(spend(budget, asked(model, 5, max_tokens=100))) == 1
    assert budget.spent_dollars == pytest.approx(4 * 0.000055)


def test_calls_that_may_go_live_are_reserved_at_the_live_price() -> None:
    """With --tail-live nobody knows before a wave leaves which calls go live; what scores a reply always does."""

    async def tail(request: Request) -> Completion:
        await asyncio.sleep(0)
        usage = Usage(36, 100, 1)
        return Completion("x", usage=usage if int(request.text) % 3 else usage.by_batch())

    model, backend = model_of(tail, Price(1.0, 1.0))
    model.discount, model.tail_live = 0.5, 3
    budget = Budget(dollars=0.001)
    spend(budget, asked(model, 40, max_tokens=100))
    assert 0.0008 < budget.spent_dollars <= 0.001
    assert len(backend.requests) >= 8
    model.tail_live = 0
    scoring = Request.of("Q", logprobs=True, choices=["yes"])
    assert model.tariff(Request.of("Q")).by_batch
    assert not model.tariff(scoring).by_batch


def test_thousands_may_wait_for_money() -> None:
    model, backend = model_of(costing(1, 1), Price(1.0, 1.0))
    budget = Budget(dollars=0.01)
    assert exceeded(spend(budget, asked(model, 5000, max_tokens=64))) == 5000 - len(backend.requests)
    assert budget.spent_dollars > 0.0099


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_it_is_never_exceeded(data: st.DataObject) -> None:
    """Whatever models cost, however many calls are under way, whichever fail: what is paid is within the dollars."""
    amounts = st.decimals(min_value=0, max_value=100, places=4).map(float)
    prices = data.draw(
        st.lists(st.builds(Price, amounts, amounts, st.none() | amounts, amounts), min_size=1, max_size=3)
    )
    paid = Decimal(0)
    dollars = data.draw(st.decimals(min_value=0, max_value="0.02", places=6).map(float))

    def opened(price: Price) -> BaseModel:
        by_batch = data.draw(st.booleans())

        async def answer(request: Request) -> Completion:
            nonlocal paid
            for _ in range(int(request.text) % 4):
                await asyncio.sleep(0)
            if int(request.text) % 7 == 6:
                raise ServerError("broken", status=400)
            most = most_tokens(request)
            usage = Usage(min(most[0], int(request.text) % 50), int(request.text) % (most[1] + 1), 1)
            asked_as = price.by_batch(0.5) if by_batch else price
            paid += usage.prompt_tokens * Decimal(repr(asked_as.input)) / 10**6
            paid += usage.completion_tokens * Decimal(repr(asked_as.output)) / 10**6
            return Completion("x", usage=usage.by_batch() if by_batch else usage)

        model, _ = model_of(answer, price)
        model.discount = 0.5 if by_batch else 1.0
        return model

    models = [opened(price) for price in prices]
    calls = data.draw(st.lists(st.tuples(st.sampled_from(models), st.integers(0, 999)), max_size=30))
    budget = Budget(dollars=dollars)
    params = sampling_params(max_tokens=data.draw(st.integers(1, 200)))
    asked = [
        (m, Request(messages=(Message("user", str(text)),), params=params, sample=(i,)))
        for i, (m, text) in enumerate(calls)
    ]
    outcomes = spend(budget, asked)
    assert paid <= Decimal(str(dollars))
    assert float(paid) <= budget.spent_dollars * (1 + 1e-9) <= float(paid) * (1 + 1e-6) + 1e-9
    if all(price.by_batch(1.0) == Price(0, 0) == Price(price.input, price.output) for price in prices):
        assert not exceeded(outcomes)


def test_a_prompt_has_no_more_tokens_than_bytes() -> None:
    request = Request(
        messages=(Message("system", "é"), Message("user", Json.of([{"type": "text", "text": "ab"}]))),
        tools=(Json.of({"a": 1}),),
        params=sampling_params(max_tokens=7, json_schema={"type": "object"}),
    )
    assert most_tokens(request) == (2 + 2 + len('{"a":1}') + len('{"type":"object"}') + 3 * 16, 7)
