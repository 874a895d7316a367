"""Steps of a run whose budget is spent: what is under way finishes, and nothing else begins."""

import asyncio

import pytest
from tests.scripting import run

from shoal.errors import BudgetExceeded
from shoal.evolution.steps import Steps


def test_no_step_begins_once_the_budget_is_spent() -> None:
    """One that did, with a call that still fitted into a budget of tokens, was cut off: its call was paid for twice."""
    steps, done = Steps(), []
    spent = asyncio.Event()

    async def too_dear() -> None:
        spent.set()
        raise BudgetExceeded("the budget is spent")

    async def under_way() -> None:
        await spent.wait()
        await asyncio.sleep(0)
        done.append("under way")

    async def next_one() -> None:
        done.append("begun")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(steps.do(under_way()))
            group.create_task(steps.do(too_dear()))
            await spent.wait()
            await steps.do(next_one())

    with pytest.raises(BudgetExceeded):
        run(steps.unless_spent(work()))
    assert done == ["under way"]
