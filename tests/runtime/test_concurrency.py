"""Work started ahead of its results: what is taken depends on the results alone, and nothing is left behind."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from tests.scripting import run

from shoal.runtime.concurrency import take_while


def up_to_the_first(end: int, ahead: int) -> object:
    """Until a result is `end`, with `ahead` more under way than there are results."""

    def wanted(results: Sequence[int]) -> int:
        return results.index(end) + 1 if end in results else len(results) + ahead

    return wanted


class Work:
    """Numbered work that takes as many turns as it is told to, and remembers what became of it."""

    def __init__(self, turns: Sequence[int], failing: int | None = None) -> None:
        self.turns = turns
        self.failing = failing
        self.started: list[int] = []
        self.finished: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, i: int) -> int:
        self.started.append(i)
        try:
            for _ in range(self.turns[i]):
                await asyncio.sleep(0)
            if i == self.failing:
                raise KeyError(i)
        except asyncio.CancelledError:
            self.cancelled.append(i)
            raise
        self.finished.append(i)
        return i


def taken(work: Work, end: int, ahead: int) -> tuple[list[int], list[int]]:
    async def main() -> tuple[list[int], list[int]]:
        result = await take_while(work, up_to_the_first(end, ahead))  # type: ignore[arg-type]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return run(main())


def test_what_is_taken_does_not_depend_on_what_finishes_first() -> None:
    for seed in range(30):
        work = Work(random.Random(seed).choices(range(9), k=30))
        results, beyond = taken(work, 5, ahead=4)
        assert results == [0, 1, 2, 3, 4, 5]
        assert sorted([*results, *beyond]) == sorted(work.finished)
        assert sorted([*work.finished, *work.cancelled]) == sorted(work.started)


def test_what_still_runs_is_cancelled_and_what_had_finished_is_given() -> None:
    work = Work([5, 1, 1, 1, 99, 99, 99])
    assert taken(work, 1, ahead=6) == ([0, 1], [2, 3])
    assert work.cancelled == [4, 5]


def test_nothing_is_started_that_is_not_wanted() -> None:
    work = Work([1] * 10)
    assert taken(work, 9, ahead=1)[0] == list(range(10))
    assert len(work.started) == 10
    assert run(take_while(work, lambda results: 0)) == ([], [])
    assert len(work.started) == 10


def test_a_failure_is_raised_in_its_turn_and_cancels_the_rest() -> None:
    work = Work([1, 9, 1, 50, 50], failing=2)
    with pytest.raises(KeyError, match="2"):
        taken(work, 4, ahead=5)
    assert work.finished == [0, 1]
    assert work.cancelled == [3, 4]


def test_a_failure_beyond_the_end_is_not_seen() -> None:
    assert taken(Work([5, 5, 1, 50], failing=2), 1, ahead=4) == ([0, 1], [])


def test_the_caller_goes_and_so_does_the_work() -> None:
    work = Work([1000] * 3)

    async def main() -> None:
        task = asyncio.create_task(take_while(work, lambda results: 3))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.cancelled == [0, 1, 2]

    run(main())
