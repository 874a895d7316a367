"""A budget is never exceeded by a call, waits for reservations to come back, and charges nothing for what was free."""

import asyncio
from pathlib import Path

import pytest
from tests.scripting import run, scripted

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import BudgetExceeded, UsageError
from shoal.runtime import budget as budgets
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.scope import setting
from shoal.runtime.types import Completion, Request, Usage


def spend(budget: Budget, model: Model, questions: list[str], **params: int) -> list[Completion | BaseException]:
    async def main() -> list[Completion | BaseException]:
        with setting(budgets.current, budget):
            asked = [model(Request.of(question, **params)) for question in questions]
            return await asyncio.gather(*asked, return_exceptions=True)

    return run(main())


def kinds(outcomes: list[Completion | BaseException]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def test_calls_are_exact() -> None:
    model, backend = scripted(lambda r: r.text)
    budget = Budget(calls=3)
    outcomes = spend(budget, model, [str(i) for i in range(5)])
    assert kinds(outcomes) == ["Completion"] * 3 + ["BudgetExceeded"] * 2
    assert len(backend.requests) == 3
    assert str(outcomes[4]) == "the budget of 3 calls is spent"


def test_shared_and_cached_calls_are_free(tmp_path: Path) -> None:
    model = BaseModel(ScriptedBackend(lambda r: r.text), cache=DrawCache(tmp_path / "c"))
    budget = Budget(calls=2)
    assert kinds(spend(budget, model, ["a", "a", "a", "b"])) == ["Completion"] * 4
    assert kinds(spend(budget, model, ["a", "b"])) == ["Completion"] * 2
    assert budget.spent.calls == 2
    assert kinds(spend(budget, model, ["c"])) == ["BudgetExceeded"]


def test_tokens_are_reserved_and_given_back() -> None:
    """Each call may take 100 tokens and takes 10: with 150 they go one after another, and 14 fit."""
    model, backend = scripted(lambda _: Completion("x", usage=Usage(5, 5, 1)))
    budget = Budget(tokens=150)
    outcomes = spend(budget, model, [str(i) for i in range(20)], max_tokens=100)
    assert len(backend.requests) == kinds(outcomes).count("Completion") == 6
    assert budget.spent.total_tokens == 60
    assert "may need 100" in str(outcomes[-1])


def test_seconds_end_a_call_under_way() -> None:
    async def forever(_: Request) -> str:
        await asyncio.Event().wait()
        return "never"

    model, _ = scripted(forever)
    (outcome,) = spend(Budget(seconds=0.02), model, ["Q"])
    assert isinstance(outcome, BudgetExceeded)
    assert str(outcome) == "the budget of 0.02 seconds is spent"


def test_a_stopped_budget_lets_calls_under_way_finish() -> None:
    release = asyncio.Event()

    async def wait(_: Request) -> str:
        await release.wait()
        return "done"

    async def main() -> None:
        model, _ = scripted(wait)
        budget = Budget()
        with setting(budgets.current, budget):
            first = asyncio.ensure_future(model("a"))
            await asyncio.sleep(0)
            budget.stop("interrupted")
            with pytest.raises(BudgetExceeded, match="interrupted"):
                await model("b")
            release.set()
            assert (await first).text == "done"

    run(main())


def test_parse() -> None:
    budget = Budget.parse("calls=10, tokens=1e6,seconds=2.5")
    assert (budget.calls, budget.tokens, budget.seconds) == (10, 1_000_000, 2.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("call=3", "did you mean calls"),
        ("calls=many", "not a number"),
        ("tokens=-1", "at least 0"),
        ("seconds=inf", "finite"),
        ("", "known: calls, seconds, tokens"),
    ],
)
def test_parse_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Budget.parse(text)


def test_no_budget_costs_nothing() -> None:
    model, _ = scripted(lambda r: r.text)
    assert [c.text for c in run(gather(model("a"), model("b")))] == ["a", "b"]


def test_equal_draws_that_wait_for_the_budget_are_one() -> None:
    """The second, who fitted only when the first had its answer, asked the same draw again and paid for it."""
    model, backend = scripted(lambda r: "yes")
    budget = Budget(tokens=60)
    assert kinds(spend(budget, model, ["other", "same", "same"], max_tokens=40)) == ["Completion"] * 3
    assert budget.spent.calls == len(backend.requests) == 2


def test_those_who_wait_are_served_in_their_order_and_one_who_leaves_holds_up_nobody() -> None:
    async def main() -> list[int]:
        budget = Budget(tokens=100)
        served: list[int] = []

        async def take(number: int, tokens: int) -> None:
            await budget.reserve(tokens)
            served.append(number)

        await budget.reserve(100)
        waiting = [asyncio.ensure_future(take(i, 50)) for i in range(4)]
        await asyncio.sleep(0)
        budget.settle(100, Usage(0, 50, 1))  # room for one, which is woken and goes away before it takes it
        waiting[0].cancel()
        await asyncio.wait_for(waiting[1], 5)
        budget.settle(50, Usage(0, 0, 1))
        await asyncio.wait_for(waiting[2], 5)
        budget.settle(50, Usage(0, 50, 1))
        with pytest.raises(BudgetExceeded):
            await asyncio.wait_for(waiting[3], 5)
        return served

    assert run(main()) == [1, 2]
