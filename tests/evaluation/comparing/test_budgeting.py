"""The largest size within a budget is found, and what cannot be afforded is hardly tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scripting import run, scripted

from shoal.errors import UsageError
from shoal.evaluation.comparing.budgeting import EqualBudget, largest
from shoal.evaluation.comparing.sizes import SIZES, resized, size_of
from shoal.runtime.model import apply
from shoal.runtime.types import Request
from shoal.techniques import TECHNIQUES
from shoal.techniques.re_reading import re_reading
from shoal.techniques.self_consistency import self_consistency


def found(fixed: float, each: float, power: float, limit: float) -> tuple[int, list[float]]:
    costs: list[float] = []

    async def cost(size: int) -> float:
        costs.append(fixed + each * size**power)
        return costs[-1]

    return run(largest(cost, limit)), costs


@given(
    st.floats(0, 50),
    st.floats(0.1, 20),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.floats(1, 5000),
)
def test_the_largest_size_within_the_budget_is_found(fixed: float, each: float, power: float, limit: float) -> None:
    size, _ = found(fixed, each, power, limit)
    assert 1 <= size <= 4096
    assert size == 1 or fixed + each * size**power <= limit
    assert size == 4096 or fixed + each * (size + 1) ** power > limit


def test_little_is_tried_beyond_the_budget() -> None:
    """Costs in proportion to the size, as of draws: one step too many, of one draw."""
    size, costs = found(20, 10, 1.0, 1000)
    assert size == 98
    assert [cost for cost in costs if cost > 1000] == [1010]
    assert len(costs) <= 8


def test_every_size_is_an_option_of_its_technique_and_a_number() -> None:
    for slug, option in SIZES.items():
        assert isinstance(TECHNIQUES[slug].options[option], int), slug


def test_a_technique_inside_another_is_resized_and_draws_can_begin_further_on() -> None:
    model, backend = scripted(lambda request: f"answer {request.sample}")
    nested = apply(re_reading, apply(self_consistency, model, n=8))
    size = size_of(nested)
    assert size is not None
    assert (size.option, size.value) == ("n", 8)
    run(resized(nested, 3, 4)(Request.of("Q").draw(7)))
    assert [request.sample for request in backend.requests] == [(7, 4), (7, 5), (7, 6)]
    assert size_of(apply(re_reading, model)) is None
    assert resized(model, 3) is model


def test_a_budget_reads_as_it_is_written() -> None:
    assert str(EqualBudget.parse(" tokens = 2e3")) == "2,000 tokens a row"
    assert str(EqualBudget.parse("dollars=0.00123456")) == "$0.00123 a row"
    with pytest.raises(UsageError, match="must be a finite number above 0"):
        EqualBudget.parse("calls=nan")
