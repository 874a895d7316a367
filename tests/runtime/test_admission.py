"""Whose turn it is at an endpoint: the oldest first, whether it goes through the scheduler or passes by it."""

import asyncio

from tests.scripting import AT_ONCE, run

from shoal.backends.scripted import ScriptedBackend
from shoal.errors import RateLimited
from shoal.runtime import scope
from shoal.runtime.admission import Admission
from shoal.runtime.limits import Limits
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Request


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def passing(admission: Admission, age: int, name: str, order: list[str]) -> None:
    with scope.setting(scope.age, age):
        async with admission.slot(0):
            order.append(name)
            await turns()


def test_the_oldest_has_the_next_slot_and_equals_take_turns_as_they_came() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        admission = Admission(Limits(max_in_flight=1), 1, AT_ONCE, "m")
        async with asyncio.TaskGroup() as group, admission.slot(0):
            for age, name in [(9, "b1"), (9, "b2"), (0, "live1"), (9, "b3"), (0, "live2")]:
                group.create_task(passing(admission, age, name, order))
                await turns(2)
        return order

    assert run(main()) == ["live1", "live2", "b1", "b2", "b3"]


def test_older_draws_of_the_scheduler_go_before_younger_requests_that_pass_by_it() -> None:
    order: list[str] = []

    async def script(request: Request) -> str:
        order.append(request.text)
        await turns()
        return "x"

    async def main() -> None:
        scheduler = Scheduler(ScriptedBackend(script), limits=Limits(max_in_flight=1), retry=AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for i in range(3):
                group.create_task(passing(scheduler.admission, 9, f"b{i}", order))
            await turns(2)
            for i in range(3):
                group.create_task(scheduler(Request.of(f"live{i}")))
        assert scheduler.admission.in_flight == 0

    run(main())
    assert order == ["b0", "live0", "live1", "live2", "b1", "b2"]


def test_draws_that_nobody_waits_for_any_more_hold_nobody_up() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        scheduler = Scheduler(ScriptedBackend(lambda request: "x"), limits=Limits(max_in_flight=1), retry=AT_ONCE)
        async with asyncio.TaskGroup() as group, scheduler.admission.slot(0):
            live = group.create_task(scheduler(Request.of("live")))
            group.create_task(passing(scheduler.admission, 9, "b", order))
            await turns()
            live.cancel()
            await turns()
        return order

    assert run(main()) == ["b"]


def test_a_turn_given_to_one_that_has_gone_is_given_to_the_next() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        admission = Admission(Limits(max_in_flight=1), 1, AT_ONCE, "m")
        async with asyncio.TaskGroup() as group:
            async with admission.slot(0):
                gone = group.create_task(passing(admission, 0, "gone", order))
                group.create_task(passing(admission, 0, "next", order))
                await turns()
            gone.cancel()  # its turn has been given, and it has not taken it yet
        return order

    assert run(main()) == ["next"]


def test_a_rate_lets_those_that_wait_through_one_by_one_oldest_first() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        admission = Admission(Limits(rpm=6000, max_in_flight=1000), 1000, AT_ONCE, "m")
        while admission.wait(0.0) == 0.0:  # what may be sent at once is sent
            admission.enter(0)
        admission.in_flight = 0
        async with asyncio.TaskGroup() as group:
            for age, name in [(9, "b1"), (9, "b2"), (0, "live"), (9, "b3")]:
                group.create_task(passing(admission, age, name, order))
        assert admission.in_flight == 0
        return order

    assert run(main()) == ["live", "b1", "b2", "b3"]


def test_all_that_wait_for_a_parked_server_are_told() -> None:
    async def main() -> list[object]:
        admission = Admission(Limits(max_in_flight=1), 1, AT_ONCE, "m")
        async with admission.slot(0) as slot:
            waiting = [asyncio.ensure_future(passing(admission, age, "", [])) for age in (0, 1, 2)]
            await turns()
            error = RateLimited("later", endpoint="m", retry_after=1e6)
            admission.failed(error, slot, asyncio.get_running_loop().time())
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(error) for error in run(main())] == [RateLimited] * 3
