"""Callers that leave at any moment take their slots with them."""

import asyncio

import pytest
from tests.scripting import run, scripted

from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Request


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("leave_first", [True, False])
def test_who_leaves_at_any_turn_of_the_loop_leaves_no_slot_taken(turns: int, leave_first: bool) -> None:
    async def program() -> tuple[int, int, int]:
        scheduler = Scheduler(scripted(lambda _: "A")[1])
        asking: list[asyncio.Task[object]] = []

        async def leave() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            asking[0].cancel()

        async def ask() -> object:
            return await scheduler(Request.of("Q?"))

        leaving = asyncio.create_task(leave()) if leave_first else None
        asking.append(asyncio.create_task(ask()))
        await (leaving or asyncio.create_task(leave()))
        await asyncio.wait(asking)
        assert str(await scheduler(Request.of("Another?")))
        return scheduler.in_flight, scheduler.admission.in_flight, scheduler.waiting

    assert run(program()) == (0, 0, 0)
