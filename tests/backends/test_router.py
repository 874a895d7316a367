"""Each request goes to the member that has room, is well and is warm; what fails there is asked elsewhere."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.scripting import AT_ONCE, run
from tests.virtual_time import clocked, run_virtually

from shoal.backends import BaseModel
from shoal.backends.member import Member
from shoal.backends.router import Router
from shoal.backends.scripted import Script, ScriptedBackend
from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    BudgetExceeded,
    ConnectionFailed,
    ContextLengthExceeded,
    ModelError,
    QuotaExceeded,
    RateLimited,
    ServerError,
    Unsupported,
    UsageError,
)
from shoal.runtime import budget, scope
from shoal.runtime.backend import Capabilities, Draws, Outcome
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache
from shoal.runtime.concurrency import gather
from shoal.runtime.limits import Limits
from shoal.runtime.model import sample, stream
from shoal.runtime.types import Completion, Delta, Message, Request, Usage


class Board:
    """A backend whose wire requests wait until the test answers them."""

    def __init__(self, name: str = "board", **capabilities: Any) -> None:
        self.name = self.identity = name
        self.capabilities = Capabilities(**{"text": True, "tools": True, **capabilities})
        self.asked: list[Draws] = []
        self.answers: list[asyncio.Future[list[Outcome]]] = []
        self.cancelled = 0
        self.closed = False

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        (draws,) = batch
        self.asked.append(draws)
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        raise NotImplementedError
        yield

    async def aclose(self) -> None:
        self.closed = True

    def answer(self, i: int, outcome: ModelError | None = None) -> None:
        draws = [Completion(self.name, usage=Usage(1, 1, 1)) for _ in range(self.asked[i].n)]
        self.answers[i].set_result([outcome or draws])


def routed(*members: Member, cache: DrawCache | None = None, **options: Any) -> BaseModel:
    return BaseModel(Router("mixed", members, **{"retry": AT_ONCE, **options}), cache=cache, retry=AT_ONCE)


def member(backend: Any, limits: Limits | None = None, **options: Any) -> Member:
    return Member(BaseModel(backend, limits=limits, retry=AT_ONCE), **options)


def boards(count: int, *, limits: Limits | None = None, **capabilities: Any) -> tuple[BaseModel, list[Board]]:
    made = [Board(name, **capabilities) for name in "abcdef"[:count]]
    return routed(*(member(board, limits) for board in made)), made


def saying(name: str, script: Script | None = None, **options: Any) -> ScriptedBackend:
    return ScriptedBackend(script or (lambda request: name), name=name, **options)


def failing(name: str, error: ModelError) -> ScriptedBackend:
    def script(request: Request) -> str:
        raise type(error)("no", endpoint=name, status=error.status, retry_after=error.retry_after)

    return ScriptedBackend(script, name=name)


def q(text: str = "q", *path: int) -> Request:
    return Request(prompt=text, sample=path)


def start(model: BaseModel, *requests: Request) -> list[asyncio.Task[Completion]]:
    return [asyncio.ensure_future(model(request)) for request in requests]


async def settle() -> None:
    """Let everything run that can run without an answer."""
    for _ in range(60):
        await asyncio.sleep(0)


def told(draws: Draws) -> str:
    """All that was said in a conversation, from its first word."""
    return "".join(str(message.content) for message in draws.request.messages)


def asked(*backends: ScriptedBackend) -> list[int]:
    return [len(backend.requests) for backend in backends]


class TestSharing:
    def test_what_is_under_way_is_shared_by_weight(self) -> None:
        async def main() -> None:
            a, b = Board("a"), Board("b")
            model = routed(member(a, weight=3), member(b))
            tasks = start(model, *(q(f"{i}") for i in range(16)))
            await settle()
            assert (len(a.asked), len(b.asked)) == (12, 4)
            for board in (a, b):
                for i in range(len(board.asked)):
                    board.answer(i)
            await gather(*tasks)

        run(main())

    def test_questions_one_after_another_are_shared_by_weight_too(self) -> None:
        a, b = saying("a"), saying("b")
        model = routed(member(a, weight=3), member(b))

        async def main() -> list[str]:
            return [(await model(q(f"{i}"))).text for i in range(8)]

        assert run(main()) == ["a", "b", "a", "a", "a", "b", "a", "a"]

    def test_a_slow_member_holds_nothing_that_a_fast_one_could_answer(self) -> None:
        async def main() -> None:
            model, (slow, fast) = boards(2, limits=Limits(max_in_flight=2))
            tasks = start(model, *(q(f"{i}") for i in range(12)))
            await settle()
            assert model.scheduler.in_flight == model.scheduler.max_in_flight == 4
            assert model.scheduler.waiting == 8
            for i in range(10):
                fast.answer(i)
                await settle()
            assert (len(slow.asked), len(fast.asked)) == (2, 10)
            slow.answer(0)
            slow.answer(1)
            await gather(*tasks)
            assert model.scheduler.wire_requests == model.scheduler.draws == 12

        run(main())

    def test_the_oldest_program_is_served_first(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1))
            tasks = []
            for age in (0, 1, 5, 3, 4, 2):
                with scope.setting(scope.age, age):
                    tasks += start(model, q(f"{age}"))
            await settle()
            for i in range(3):
                a.answer(i)
                b.answer(i)
                await settle()
            order = [d.request.text for pair in zip(a.asked, b.asked, strict=True) for d in pair]
            assert order == ["0", "1", "2", "3", "4", "5"]
            await gather(*tasks)

        run(main())

    @pytest.mark.parametrize(
        ("limits", "seconds"),
        [
            ((Limits(rpm=60), Limits(rpm=120)), 29),  # 90 requests at 1 + 2 a second, a second's worth at once
            ((Limits(rpm=60), Limits(rpm=540)), 8),
            ((Limits(tpm=600), Limits(tpm=1200)), 29),  # at 10 tokens each
        ],
    )
    def test_a_batch_ends_at_the_sum_of_the_rates(self, limits: tuple[Limits, Limits], seconds: float) -> None:
        async def main() -> float:
            ten = Usage(5, 5, 1)
            backends = [saying(name, lambda r: Completion("x", usage=ten)) for name in "ab"]
            members = [member(backend, limit) for backend, limit in zip(backends, limits, strict=True)]
            model = routed(*members)
            clocked(each.model for each in members)
            loop = asyncio.get_running_loop()
            began = loop.time()
            requests = [Request.of("12345678", max_tokens=8).draw(i) for i in range(90)]
            requests = [request.with_params(stop=(str(i),)) for i, request in enumerate(requests)]
            await gather(*map(model, requests))
            return loop.time() - began

        assert run_virtually(main()) == pytest.approx(seconds, abs=1.5)

    def test_no_more_at_once_than_said(self) -> None:
        async def main() -> None:
            made = [Board("a"), Board("b")]
            model = routed(*map(member, made), max_in_flight=3)
            tasks = start(model, *(q(f"{i}") for i in range(4)))
            await settle()
            assert sum(len(board.asked) for board in made) == 3 == model.scheduler.max_in_flight
            made[0].answer(0)
            await settle()
            assert sum(len(board.asked) for board in made) == 4
            for task in tasks:
                task.cancel()

        run(main())

    def test_limits_and_requests_at_once_add_up(self) -> None:
        one = member(saying("a"), Limits(rpm=10, tpm=100, max_in_flight=4))
        other = member(saying("b"), Limits(rpm=20, max_in_flight=6))
        spare = member(saying("c"), Limits(rpm=5, tpm=5, max_in_flight=50), fallback=True)
        model = routed(one, other, spare)
        assert model.limits == Limits(rpm=30, tpm=None, max_in_flight=10)
        assert model.scheduler.max_in_flight == 10


class TestDraws:
    def test_draws_of_one_question_fuse_at_one_member(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, max_n=16)
            tasks = [asyncio.ensure_future(sample(model, q(text), 8)) for text in "xy"]
            await settle()
            assert [d.n for d in a.asked] == [d.n for d in b.asked] == [8]
            assert a.asked[0].samples == tuple((i,) for i in range(8))
            a.answer(0)
            b.answer(0)
            await gather(*tasks)
            assert model.scheduler.wire_requests == 2

        run(main())

    def test_more_than_fit_one_request_are_shared(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, max_n=4)
            task = asyncio.ensure_future(sample(model, q(), 10))
            await settle()
            assert [d.n for d in a.asked] == [4, 2]
            assert [d.n for d in b.asked] == [4]
            for board, i in ((a, 0), (a, 1), (b, 0)):
                board.answer(i)
            await task

        run(main())

    def test_draws_that_wait_fuse_when_their_turn_comes(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1), max_n=8)
            first = start(model, q("1"), q("2"))
            await settle()
            task = asyncio.ensure_future(sample(model, q("3"), 8))
            await settle()
            assert (len(a.asked), len(b.asked)) == (1, 1)
            b.answer(0)
            await settle()
            assert [d.n for d in b.asked] == [1, 8]
            a.answer(0)
            b.answer(1)
            await gather(*first, task)

        run(main())

    def test_seeded_draws_are_asked_one_by_one(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1), max_n=8)
            seeded = q().with_params(seed=1)
            tasks = start(model, *(seeded.draw(i) for i in range(4)))
            for i in range(2):
                await settle()
                a.answer(i)
                b.answer(i)
            await gather(*tasks)
            assert [d.n for d in (*a.asked, *b.asked)] == [1] * 4

        run(main())

    def test_an_equal_draw_is_asked_once_under_way_and_waiting(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1))
            under_way = start(model, q("1"), q("2"), q("1"), q("2"))
            await settle()
            waiting = start(model, q("3"), q("3"))
            await settle()
            assert isinstance(model.scheduler, Router)
            assert model.scheduler.has_under_way(q("1"))
            assert model.scheduler.has_under_way(q("3"))
            assert not model.scheduler.has_under_way(q("4"))
            a.answer(0)
            later = start(model, q("3"))
            b.answer(0)
            await settle()
            later += start(model, q("3"))
            await settle()
            asked_third = [board for board in (a, b) if len(board.asked) == 2]
            (third,) = asked_third
            third.answer(1)
            done = await gather(*under_way, *waiting, *later)
            assert sum(one.usage.calls for one in done) == 3
            assert len(a.asked) + len(b.asked) == 3

        run(main())

    def test_it_is_asked_once_in_whatever_turn_of_the_loop_it_comes(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1))
            tasks = start(model, q("1"), q("2"), q("3"))
            await settle()
            a.answer(0)
            b.answer(0)
            for _ in range(20):
                tasks += start(model, q("3"))
                await asyncio.sleep(0)
            assert [draws.request.text for draws in (*a.asked, *b.asked)].count("3") == 1
            (a if len(a.asked) > 1 else b).answer(1)
            done = await gather(*tasks)
            assert sum(one.usage.calls for one in done) == 3

        run(main())

    def test_a_fused_request_that_fails_goes_on_as_one(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, max_n=8)
            task = asyncio.ensure_future(sample(model, q(), 8))
            await settle()
            a.answer(0, ServerError("down", status=500))
            await settle()
            assert [d.n for d in b.asked] == [8]
            b.answer(0)
            await task
            assert isinstance(model.scheduler, Router)
            assert model.scheduler.retries == 1
            assert model.scheduler.members[0].health.usable(0.0)  # one request failed, not eight

        run(main())

    def test_a_round_that_fails_everywhere_is_waited_for_as_one(self) -> None:
        async def main() -> None:
            a, b = Board("a", max_n=8), Board("b", max_n=8)
            model = routed(member(a), member(b), retry=None)
            task = asyncio.ensure_future(sample(model, q(), 8))
            for board in (a, b):
                await settle()
                board.answer(0, ServerError("down", status=500))
            while not len(a.asked) + len(b.asked) > 2:
                await asyncio.sleep(0.05)  # the clock jumps
            again = a if len(a.asked) > 1 else b
            assert [d.n for d in again.asked] == [8, 8]
            again.answer(1)
            await task

        run_virtually(main())


LONG = "".join(f"word {i} " for i in range(400))


def chat(*texts: str) -> Request:
    roles = ("user", "assistant")
    return Request(messages=tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)))


class TestAffinity:
    def test_a_conversation_stays_where_its_beginning_is_warm(self) -> None:
        backends = [saying(name) for name in "abc"]
        model = routed(*map(member, backends))

        async def main() -> list[list[str]]:
            said = []
            for start_ in "uvw":
                turns = [f"{start_} {LONG}"]
                places = []
                for i in range(4):
                    places.append((await model(chat(*turns))).text)
                    turns += [f"answer {i}", f"and then {i}?"]
                said.append(places)
            return said

        assert run(main()) == [["a"] * 4, ["b"] * 4, ["c"] * 4]

    def test_without_affinity_it_does_not(self) -> None:
        backends = [saying(name) for name in "ab"]
        model = routed(*map(member, backends), affinity=False)

        async def main() -> None:
            for i in range(4):
                await model(chat(LONG, "yes", f"{i}"))

        run(main())
        assert asked(*backends) == [2, 2]

    def test_a_warm_member_that_is_clearly_busier_is_left(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2)
            tasks = start(model, *(chat(LONG, "yes", f"{i}") for i in range(30)))
            await settle()
            first_ten = 9  # a margin of eight above an idle one
            assert {d.request for d in a.asked} >= {chat(LONG, "yes", f"{i}") for i in range(first_ten)}
            assert len(a.asked) + len(b.asked) == 30
            assert abs(len(a.asked) - len(b.asked)) <= 9  # then both are warm
            for task in tasks:
                task.cancel()

        run(main())

    def test_a_short_common_beginning_binds_nobody(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2)
            tasks = start(model, *(chat("s" * 300 + f"{i}" + f"{i} text " * 400) for i in range(8)))
            await settle()
            assert (len(a.asked), len(b.asked)) == (4, 4)
            for task in tasks:
                task.cancel()

        run(main())

    def test_room_comes_before_warmth(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1))
            tasks = start(model, chat(LONG, "yes", "1"), chat(LONG, "yes", "2"))
            await settle()
            assert (len(a.asked), len(b.asked)) == (1, 1)
            for task in tasks:
                task.cancel()

        run(main())


def about(subject: str, *path: int) -> Request:
    """A question whose beginning is that of all others about the subject."""
    return structs.replace(chat(f"{subject} {LONG}", "yes", str(path)), sample=())


class TestWaitingForTheWarm:
    """Where all are full, a request waits for the member that knows its beginning while others go before it."""

    @staticmethod
    async def full(
        count: int = 1, **capabilities: Any
    ) -> tuple[BaseModel, list[Board], list[asyncio.Task[Completion]]]:
        """Two members with `count` places, all taken: one is warm for u, the other for v."""
        model, members = boards(2, limits=Limits(max_in_flight=count), **capabilities)
        tasks = start(model, *(about(subject, i) for i in range(count) for subject in "uv"))
        await settle()
        a, b = members
        assert {told(draws)[0] for draws in a.asked} == {"u"}
        assert {told(draws)[0] for draws in b.asked} == {"v"}
        return model, members, tasks

    def test_who_is_warm_elsewhere_lets_others_go_first(self) -> None:
        async def main() -> None:
            model, (a, b), tasks = await self.full()
            tasks += start(model, about("u", 5), about("v", 6))
            await settle()
            b.answer(0)
            await settle()
            assert [told(draws)[0] for draws in b.asked] == ["v", "v"]  # though the other is older
            a.answer(0)
            await settle()
            assert [told(draws)[0] for draws in a.asked] == ["u", "u"]
            a.answer(1)
            b.answer(1)
            await gather(*tasks)

        run(main())

    def test_no_place_stays_free_for_it(self) -> None:
        async def main() -> None:
            model, (a, b), tasks = await self.full()
            tasks += start(model, about("u", 5))
            await settle()
            b.answer(0)
            await settle()
            assert [told(draws)[0] for draws in b.asked] == ["v", "u"]
            a.answer(0)
            b.answer(1)
            await gather(*tasks)

        run(main())

    def test_no_more_wait_for_a_member_than_it_has_places(self) -> None:
        async def main() -> None:
            model, (a, b), tasks = await self.full(2)
            tasks += start(model, *(about("u", 5 + i) for i in range(4)), about("v", 20))
            await settle()
            b.answer(0)
            await settle()
            assert told(b.asked[2]).endswith("(7,)")  # the third: two wait for their own
            b.answer(1)
            await settle()
            assert [told(draws)[0] for draws in b.asked] == ["v", "v", "u", "u"]
            for i in range(4):
                a.answer(i)
                await settle()
            assert [told(draws)[-3] for draws in a.asked][:4] == ["0", "1", "5", "6"]
            a.answer(4)  # which took the last when nobody else waited
            b.answer(2)
            b.answer(3)
            await gather(*tasks)

        run(main())

    def test_where_its_member_goes_out_others_are_asked(self) -> None:
        async def main() -> None:
            model, (a, b), tasks = await self.full()
            tasks += start(model, about("u", 5), about("v", 6), about("v", 7))
            await settle()
            b.answer(0)
            await settle()
            a.answer(0, AuthenticationFailed("", status=401))  # out at once
            await settle()
            for i in range(1, 5):
                b.answer(i)
                await settle()
            await gather(*tasks)
            assert len(a.asked) == 1
            assert sorted(told(draws)[0] for draws in b.asked) == ["u", "u", "v", "v", "v"]

        run(main())

    def test_draws_of_one_question_stay_together(self) -> None:
        async def main() -> None:
            model, (a, b), tasks = await self.full(max_n=8)
            tasks += start(
                model, *(about("u", 5).draw(i) for i in range(8)), *(about("v", 6).draw(i) for i in range(8))
            )
            await settle()
            b.answer(0)
            await settle()
            a.answer(0)
            await settle()
            assert ([draws.n for draws in a.asked], [draws.n for draws in b.asked]) == ([1, 8], [1, 8])
            a.answer(1)
            b.answer(1)
            await gather(*tasks)

        run(main())

    def test_who_waits_for_its_own_can_be_refused_and_can_leave(self) -> None:
        async def main() -> None:
            model, (a, b), tasks = await self.full()
            waiting = start(model, about("u", 5), about("u", 5), about("v", 6), about("v", 7))
            await settle()
            b.answer(0)
            await settle()
            assert len(b.asked) == 2
            waiting[0].cancel()
            await settle()
            model.scheduler.refuse_waiting(BudgetExceeded("enough"))
            with pytest.raises(BudgetExceeded, match="enough"):
                await waiting[1]
            with pytest.raises(BudgetExceeded, match="enough"):
                await waiting[3]
            assert model.scheduler.waiting == 0
            a.answer(0)
            b.answer(1)
            await gather(*tasks, waiting[2])
            assert len(a.asked) == 1

        run(main())


DOWN = ServerError("", status=500)
STATUS_404 = BadRequest("", status=404)


class TestHealth:
    def test_a_request_that_fails_is_answered_elsewhere_at_once(self) -> None:
        a, b = failing("a", DOWN), saying("b")
        model = routed(member(a), member(b))

        async def main() -> list[str]:
            return [(await model(q(f"{i}"))).text for i in range(20)]

        assert run(main()) == ["b"] * 20
        assert asked(a, b) == [3, 20]  # taken out after three

    def test_it_is_tried_again_with_one_request_and_waits_longer_each_time(self) -> None:
        well = False

        def script(request: Request) -> str:
            if not well:
                raise ConnectionFailed("gone", endpoint="a")
            return "a"

        async def main() -> None:
            nonlocal well
            a, b = saying("a", script), saying("b")
            model = routed(member(a), member(b))

            async def ask(count: int) -> None:
                await gather(*(model(q(f"{len(a.requests)} {len(b.requests)} {i}")) for i in range(count)))

            for _ in range(6):
                await ask(1)
            assert len(a.requests) == 3
            for cool_down in (5, 10, 20):
                before = len(a.requests)
                await asyncio.sleep(cool_down - 0.5)
                await ask(4)
                assert len(a.requests) == before
                await asyncio.sleep(1)
                await ask(4)
                assert len(a.requests) == before + 1
            well = True
            await asyncio.sleep(41)
            before = len(a.requests)
            await ask(1)
            await ask(4)
            assert len(a.requests) >= before + 2

        run_virtually(main())

    @pytest.mark.parametrize("error", [AuthenticationFailed("", status=401), QuotaExceeded("", status=429)])
    def test_what_no_request_can_mend_takes_it_out_at_once(self, error: ModelError) -> None:
        a, b = failing("a", error), saying("b")
        model = routed(member(a), member(b))

        async def main() -> None:
            for i in range(10):
                assert (await model(q(f"{i}"))).text == "b"

        run(main())
        assert asked(a, b) == [1, 10]

    def test_a_long_wait_that_a_server_asks_for_is_kept(self) -> None:
        async def main() -> None:
            parked = RateLimited("", status=429, retry_after=600.0)
            a, b = failing("a", parked), saying("b")
            model = routed(member(a), member(b))
            for i in range(4):
                await model(q(f"{i}"))
            await asyncio.sleep(595)
            await model(q("x"))
            assert len(a.requests) == 1
            await asyncio.sleep(10)
            await model(q("y"))
            await model(q("z"))
            assert len(a.requests) == 2

        run_virtually(main())

    def test_a_short_wait_is_used_by_the_others(self) -> None:
        async def main() -> None:
            a, b = failing("a", RateLimited("", status=429, retry_after=30.0)), saying("b")
            model = routed(member(a), member(b))
            for i in range(4):
                await model(q(f"{i}"))
            assert asked(a, b) == [1, 4]
            await asyncio.sleep(31)
            await model(q("x"))
            await model(q("y"))
            assert len(a.requests) == 2

        run_virtually(main())

    def test_a_member_that_is_limited_for_a_moment_is_not_given_up_for_one_that_is_full(self) -> None:
        async def main() -> None:
            a, b = Board("a"), Board("b")
            model = routed(member(a), member(b, Limits(max_in_flight=1)))
            tasks = start(model, q("0"), q("1"))
            await settle()
            a.answer(0, RateLimited("slow down", status=429))
            await asyncio.sleep(2)
            assert [draws.request.text for draws in a.asked] == ["0", "0"]
            a.answer(1)
            b.answer(0)
            await gather(*tasks)

        run_virtually(main())

    def test_a_bad_request_is_nobodys_fault_and_is_asked_once(self) -> None:
        a, b = failing("a", BadRequest("", status=400)), failing("b", BadRequest("", status=400))
        model = routed(member(a), member(b))

        async def main() -> None:
            for i in range(8):
                with pytest.raises(BadRequest):
                    await model(q(f"{i}"))

        run(main())
        assert asked(a, b) == [4, 4]

    def test_a_model_that_one_member_does_not_have_is_asked_elsewhere(self) -> None:
        a, b = failing("a", STATUS_404), saying("b")
        assert run(routed(member(a), member(b))(q())).text == "b"

    def test_when_all_are_out_the_error_is_raised_as_it_is(self) -> None:
        a, b = failing("a", AuthenticationFailed("", status=401)), failing("b", AuthenticationFailed("", status=403))
        model = routed(member(a), member(b))

        async def main() -> None:
            for i in range(5):
                with pytest.raises(AuthenticationFailed, match=r"^[ab]: no") as raised:
                    await model(q(f"{i}"))
                assert raised.value.status in (401, 403)

        run(main())
        assert sum(asked(a, b)) == 2 + 4  # each once, and then one question is one try

    def test_an_outage_of_all_is_waited_out_as_with_one_server(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            back = loop.time() + 3

            def script(request: Request) -> str:
                if loop.time() < back:
                    raise ConnectionFailed("gone")
                return "back"

            model = routed(member(saying("a", script)), member(saying("b", script)), retry=None)
            results = await asyncio.gather(*(model(q(f"{i}")) for i in range(10)), return_exceptions=True)
            answered = sum(isinstance(result, Completion) for result in results)
            assert answered >= 5  # the others were out of patience: their six tries were over before

        run_virtually(main())

    def test_a_request_that_fails_everywhere_leaves_the_others_working(self) -> None:
        def script(request: Request) -> str:
            if request.text == "poison":
                raise ServerError("crash", status=500)
            return "well"

        a, b = saying("a", script), saying("b", script)
        model = routed(member(a), member(b))

        async def main() -> None:
            with pytest.raises(ServerError):
                await model(q("poison"))
            assert sum(asked(a, b)) <= 6  # what the retry policy allows a draw
            for i in range(5):
                assert (await model(q(f"{i}"))).text == "well"

        run(main())

    def test_a_probe_that_is_cancelled_leaves_room_for_another(self) -> None:
        async def main() -> None:
            a, b = Board("a"), Board("b")
            model = routed(member(a), member(b))
            task = start(model, q("0"))[0]
            await settle()
            a.answer(0, AuthenticationFailed("no", status=401))
            await settle()
            b.answer(0)
            await task
            await asyncio.sleep(6)
            for i in (1, 2):
                tasks = start(model, q(f"x{i}"), q(f"y{i}"))
                await settle()
                assert len(a.asked) == 1 + i
                for each in tasks:
                    each.cancel()
                await settle()
            assert a.cancelled == 2

        run_virtually(main())

    def test_while_one_request_finds_out_whether_the_last_is_back_the_others_wait(self) -> None:
        async def main() -> None:
            (a,) = made = [Board("a")]
            model = routed(*map(member, made))
            (task,) = start(model, q("0"))
            await settle()
            a.answer(0, AuthenticationFailed("no", status=401))
            with pytest.raises(AuthenticationFailed):
                await task
            await asyncio.sleep(6)
            tasks = start(model, *(q(f"{i}") for i in range(1, 4)))
            await settle()
            assert len(a.asked) == 2
            a.answer(1)
            await settle()
            assert len(a.asked) == 4
            a.answer(2)
            a.answer(3)
            await gather(*tasks)

        run_virtually(main())


class TestFallbacks:
    def test_asked_only_when_no_other_can(self) -> None:
        up = True

        def script(request: Request) -> str:
            if not up:
                raise ConnectionFailed("gone")
            return "a"

        a, spare = saying("a", script), saying("spare")
        model = routed(member(spare, fallback=True), member(a, Limits(max_in_flight=1)))

        async def main() -> None:
            nonlocal up
            done = await gather(*(model(q(f"{i}")) for i in range(10)))
            assert {one.text for one in done} == {"a"}
            up = False
            done = await gather(*(model(q(f"down {i}")) for i in range(10)))
            assert {one.text for one in done} == {"spare"}

        run(main())
        assert asked(a, spare) == [13, 10]

    def test_a_prompt_too_long_goes_on_to_the_next_ones(self) -> None:
        def short(request: Request) -> str:
            if len(request.text) > 10:
                raise ContextLengthExceeded("too long", status=400)
            return "short"

        first, small, large = saying("first"), saying("small", short), saying("large")
        model = routed(member(first, weight=0.001), member(small, weight=1000), member(large, fallback=True))

        async def main() -> None:
            assert (await model(q("0"))).text == "first"
            assert (await model(q("1"))).text == "short"
            for i in range(5):
                assert (await model(q(f"a long prompt {i}"))).text == "large"

        run(main())
        assert asked(first, small, large) == [1, 6, 5]

    def test_too_long_for_all_is_said_as_it_is(self) -> None:
        error = ContextLengthExceeded("", status=400)
        a, b = failing("a", error), failing("b", error)
        with pytest.raises(ContextLengthExceeded, match=r"^b: "):
            run(routed(member(a), member(b))(q()))


class Limited(ScriptedBackend):
    def __init__(self, name: str, **capabilities: Any) -> None:
        super().__init__(lambda request: name, name=name)
        self.capabilities = Capabilities(text=True, **capabilities)


class TestCapabilities:
    def test_a_request_goes_to_those_who_can(self) -> None:
        a, b = Limited("a", regex=True), Limited("b", logprobs=True)
        model = routed(member(a), member(b))
        assert model.backend.capabilities.regex
        assert model.backend.capabilities.logprobs

        async def main() -> list[str]:
            with_regex = [q(f"{i}").with_params(regex="x") for i in range(3)]
            with_logprobs = [q(f"{i}").with_params(logprobs=True) for i in range(3)]
            return [one.text for one in await gather(*map(model, with_regex + with_logprobs))]

        assert run(main()) == ["a"] * 3 + ["b"] * 3

    def test_what_no_member_can_is_refused_before_any_call(self) -> None:
        a, b = Limited("a", regex=True), Limited("b", logprobs=True)
        model = routed(member(a), member(b))
        with pytest.raises(Unsupported, match="mixed cannot do a grammar"):
            run(model(q().with_params(grammar="x")))
        both = q().with_params(regex="x", logprobs=True)
        said = "no member of mixed can do this: a cannot do log-probabilities; b cannot do a regex"
        with pytest.raises(Unsupported, match=said):
            run(model(both))
        assert asked(a, b) == [0, 0]

    def test_those_who_wait_for_one_member_do_not_hold_up_the_others(self) -> None:
        async def main() -> None:
            a, b = Board("a", regex=True), Board("b")
            one = Limits(max_in_flight=1)
            model = routed(member(a, one), member(b, one))
            with_regex = [q(f"{i}").with_params(regex="x") for i in range(4)]
            tasks = start(model, *with_regex, q("plain"))
            await settle()
            assert [len(a.asked), len(b.asked)] == [1, 1]
            for task in tasks:
                task.cancel()

        run(main())

    def test_whoever_they_wait_for_the_oldest_are_first(self) -> None:
        async def main() -> None:
            a, b = Board("a", regex=True), Board("b")
            one = Limits(max_in_flight=1)
            model = routed(member(a, one), member(b, one))
            tasks = start(model, q("1"), q("2"))
            await settle()
            for age in (5, 4, 2, 3):
                with scope.setting(scope.age, age):
                    asked_ = q(f"of age {age}")
                    tasks += start(model, asked_.with_params(regex="x") if age in (2, 5) else asked_)
                    await settle()
            for i in range(4):
                a.answer(i)
                await settle()
            assert [draws.request.text[-1] for draws in a.asked[1:]] == ["2", "3", "4", "5"]
            for task in tasks:
                task.cancel()

        run(main())

    def test_who_asks_one_thing_after_another_takes_no_place_before_an_older_one_that_waits(self) -> None:
        async def main() -> None:
            a, b = Board("a", regex=True), Board("b")
            one = Limits(max_in_flight=1)
            model = routed(member(a, one), member(b, one))

            async def program() -> None:
                for i in range(9):
                    await model(q(f"young {i}").with_params(regex="x"))

            tasks = start(model, q("1"), q("2"))
            with scope.setting(scope.age, 5):
                tasks.append(asyncio.ensure_future(program()))  # type: ignore[arg-type]
            await settle()
            a.answer(0)
            await settle()
            with scope.setting(scope.age, 4):
                tasks += start(model, q("old"))
            await settle()
            for i in range(1, 4):
                a.answer(i)
                await settle()
            assert [draws.request.text for draws in a.asked[1:4]] == ["young 0", "old", "young 1"]
            for task in tasks:
                task.cancel()

        run(main())

    def test_counts_and_embeddings_come_from_the_first_that_has_them(self) -> None:
        class Embedding(Board):
            async def embed(self, texts: Sequence[str]) -> list[list[float]]:
                return [[float(len(text))] for text in texts]

        plain, embedding, counting = Board("a"), Embedding("b", embed=True), saying("c")
        model = routed(member(plain), member(embedding), member(counting))
        assert run(model.embed(["four"])) == [[4.0]]
        assert run(model.count_tokens("three short words")) == 3
        with pytest.raises(Unsupported, match="cannot do embeddings"):
            run(routed(member(plain), member(counting)).embed(["x"]))


class Breaking(ScriptedBackend):
    """Streams `said` pieces, and then the connection breaks."""

    def __init__(self, name: str, said: int) -> None:
        super().__init__(lambda request: name, name=name)
        self.said = said

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        self.requests.append(request)
        for i in range(self.said):
            yield Delta(f"{self.name}{i}")
        raise ConnectionFailed("cut")


async def streamed(model: BaseModel) -> tuple[list[str], bool]:
    got: list[str] = []
    try:
        async for piece in stream(model, q()):
            if isinstance(piece, Delta):
                got.append(piece.text)  # noqa: PERF401 - what came before the error is kept
    except ConnectionFailed:
        return got, False
    return got, True


class TestStreams:
    def test_before_the_first_word_another_member_takes_over(self) -> None:
        a, b = Breaking("a", 0), saying("b")
        assert run(streamed(routed(member(a), member(b)))) == (["b"], True)

    def test_nothing_is_streamed_twice(self) -> None:
        a, b = Breaking("a", 2), saying("b")
        assert run(streamed(routed(member(a), member(b)))) == (["a0", "a1"], False)
        assert asked(b) == [0]


class TestCancelling:
    def test_it_reaches_the_wire_and_makes_room(self) -> None:
        async def main() -> None:
            model, (a, b) = boards(2, limits=Limits(max_in_flight=1))
            tasks = start(model, *(q(f"{i}") for i in range(4)))
            await settle()
            tasks[0].cancel()
            tasks[2].cancel()
            await settle()
            assert a.cancelled == 1
            assert [d.request.text for d in a.asked] == ["0", "3"]
            a.answer(1)
            b.answer(0)
            await gather(tasks[1], tasks[3])
            assert model.scheduler.in_flight == model.scheduler.waiting == 0

        run(main())

    def test_one_whose_turn_has_just_come_gives_it_on(self) -> None:
        async def main() -> None:
            model, (a,) = boards(1, limits=Limits(max_in_flight=1))
            tasks = start(model, q("0"), q("1"), q("2"))
            await settle()
            assert isinstance(model.scheduler, Router)
            a.answer(0)
            while model.scheduler.members[0].leases and not tasks[0].done():
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[1].cancel()
            await settle()
            assert a.asked[-1].request.text == "2"
            a.answer(len(a.asked) - 1)
            await tasks[2]
            assert model.scheduler.members[0].leases == 0

        run(main())

    def test_what_waits_can_be_refused(self) -> None:
        async def main() -> None:
            model, (a,) = boards(1, limits=Limits(max_in_flight=1))
            tasks = start(model, *(q(f"{i}") for i in range(3)))
            await settle()
            model.scheduler.refuse_waiting(BudgetExceeded("stop"))
            a.answer(0)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [Completion, BudgetExceeded, BudgetExceeded]

        run(main())

    def test_one_who_goes_when_it_is_refused_is_cancelled_all_the_same(self) -> None:
        async def main() -> None:
            model, (a,) = boards(1, limits=Limits(max_in_flight=1))
            tasks = start(model, q("0"), q("1"))
            await settle()
            model.scheduler.refuse_waiting(BudgetExceeded("stop"))
            tasks[1].cancel()
            a.answer(0)
            await asyncio.wait(tasks)
            assert tasks[1].cancelled()

        run(main())

    def test_one_event_loop_after_another(self) -> None:
        a, b = saying("a"), saying("b")
        model = routed(member(a), member(b))

        async def left() -> None:
            start(model, *(q(f"{i}") for i in range(4)))
            await asyncio.sleep(0)

        run(left())
        assert run(model(q("again"))).text in "ab"


class TestAbove:
    def test_a_budget_is_exact(self) -> None:
        a, b = failing("a", DOWN), saying("b", max_n=4)
        model = routed(member(a), member(b))
        limit = Budget(calls=5)

        async def main() -> list[Any]:
            with scope.setting(budget.current, limit):
                return await asyncio.gather(*(model(q(f"{i}")) for i in range(9)), return_exceptions=True)

        results = run(main())
        kinds = Counter(type(result) for result in results)
        assert kinds == {Completion: 5, BudgetExceeded: 4}
        assert limit.spent.calls == 5 == len(b.requests)

    def test_a_draw_replays_whoever_answered_it(self, tmp_path: Path) -> None:
        a, b = saying("a"), saying("b")
        cache = DrawCache(tmp_path / "c")
        first = routed(member(a), member(b, weight=2), cache=cache)
        said = [run(first(q(f"{i}"))).text for i in range(4)]
        assert set(said) == {"a", "b"}
        changed = routed(member(b, Limits(rpm=1)), member(a, fallback=True), cache=cache, affinity=False)
        assert [run(changed(q(f"{i}"))).text for i in range(4)] == said
        assert sum(asked(a, b)) == 4
        other = routed(member(a), member(saying("c")), cache=cache)
        assert run(other(q("0"))).usage.calls == 1

    def test_a_router_of_one_has_the_draws_of_the_one(self, tmp_path: Path) -> None:
        a = saying("a")
        cache = DrawCache(tmp_path / "c")
        run(BaseModel(a, cache=cache)(q()))
        assert run(routed(member(a), cache=cache)(q())).usage.cached_calls == 1

    def test_all_are_closed_whatever_becomes_of_one(self) -> None:
        class Stuck(Board):
            async def aclose(self) -> None:
                raise ConnectionFailed("stuck")

        last, first = Board("b"), Board("c")
        with pytest.raises(ConnectionFailed, match="stuck"):
            run(routed(member(first), member(Stuck()), member(last)).aclose())
        assert first.closed
        assert last.closed

    def test_no_router_is_a_member(self) -> None:
        with pytest.raises(UsageError, match="mixed is several models itself"):
            Member(routed(member(saying("a"))))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_every_call_ends_and_nothing_is_left_behind(seed: int) -> None:
    """Random members, failures, questions and cancelled callers, in virtual time."""
    chance = random.Random(seed)
    errors = [
        ServerError("no", status=500),
        ConnectionFailed("gone"),
        RateLimited("slow", status=429),
        RateLimited("slower", status=429, retry_after=3.0),
        RateLimited("stop", status=429, retry_after=500.0),
        AuthenticationFailed("who", status=401),
        BadRequest("what", status=400),
        ContextLengthExceeded("long", status=400),
    ]

    async def script(request: Request) -> str:
        await asyncio.sleep(chance.choice([0.0, 0.1, 1.0, 7.0]))
        if chance.random() < 0.25:
            raise copy(chance.choice(errors))
        return "well"

    def some_member(name: str) -> Member:
        limits = Limits(chance.choice([None, 60, 600]), chance.choice([None, 6000]), chance.choice([None, 1, 2, 8]))
        backend = saying(name, script, max_n=chance.choice([1, 4]))
        return member(backend, limits, weight=chance.choice([1, 3]), fallback=chance.random() < 0.2)

    members = [some_member(name) for name in "abcd"[: chance.randint(1, 4)]]
    model = routed(*members, retry=None, max_in_flight=chance.choice([None, 3]))

    async def main() -> None:
        clocked(each.model for each in members)

        async def ask(i: int) -> Completion:
            await asyncio.sleep(chance.random() * 20)
            text = f"{chance.randrange(12)} " * chance.choice([1, 400])
            seeded = q(text, chance.randrange(6)).with_params(seed=chance.choice([None, None, 1]))
            with scope.setting(scope.age, i):
                return await model(seeded)

        tasks = [asyncio.ensure_future(ask(i)) for i in range(120)]
        for task in chance.sample(tasks, 30):
            asyncio.get_running_loop().call_later(chance.random() * 30, task.cancel)
        async with asyncio.timeout(5000):  # of the loop's seconds
            results = await asyncio.gather(*tasks, return_exceptions=True)
        allowed = (Completion, ModelError, asyncio.CancelledError)
        assert all(isinstance(result, allowed) for result in results), Counter(map(repr, results))
        await asyncio.sleep(0.01)
        router = model.scheduler
        assert isinstance(router, Router)
        assert (router.in_flight, router.waiting) == (0, 0)
        assert [each.leases for each in members] == [0] * len(members)
        assert not any(each.health.probing for each in members)
        assert not router.turns._waiting
        assert not router.turns._gathering
        assert not any(map(router.turns._head_of, list(router.turns._lines)))

    run_virtually(main())
