"""One draw is asked once, equal draws fuse, the oldest goes first, failures reach only those concerned."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.scripting import AT_ONCE, run

from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    EngineError,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    StoreError,
)
from shoal.runtime import scope
from shoal.runtime.backend import Capabilities, Draws, Outcome
from shoal.runtime.concurrency import gather
from shoal.runtime.limits import Limits
from shoal.runtime.model import sample, stream
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Completion, Delta, Request, Usage


class Board:
    """A backend whose wire requests wait until the test answers them."""

    identity = name = "board"

    def __init__(self, **capabilities: int) -> None:
        self.capabilities = Capabilities(text=True, stream=True, **capabilities)  # type: ignore[arg-type]
        self.asked: list[Sequence[Draws]] = []
        self.answers: list[asyncio.Future[list[Outcome]]] = []
        self.cancelled = 0

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        self.asked.append(batch)
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        yield Delta("par")
        raise ConnectionFailed("cut")

    async def aclose(self) -> None:
        pass

    def answer(self, i: int, *texts: str | ModelError) -> None:
        """Answer wire request i: a text for each draw, or an error for each question."""
        outcomes: list[Outcome] = []
        given = list(texts)
        for draws in self.asked[i]:
            if isinstance(given[0], ModelError):
                outcomes.append(given.pop(0))  # type: ignore[arg-type]
            else:
                said, given = given[: draws.n], given[draws.n :]
                outcomes.append([done(text) for text in said])  # type: ignore[arg-type]
        self.answers[i].set_result(outcomes)


def done(text: str) -> Completion:
    return Completion(text, usage=Usage(1, 1, 1))


async def settle() -> None:
    """Let everything run that can run without an answer."""
    for _ in range(60):
        await asyncio.sleep(0)


def q(text: str = "q", *path: int) -> Request:
    return Request(prompt=text, sample=path)


def start(scheduler: Scheduler, *requests: Request) -> list[asyncio.Task[Completion]]:
    return [asyncio.ensure_future(scheduler(request)) for request in requests]


def test_equal_draws_are_one_and_the_first_pays() -> None:
    async def main() -> None:
        board = Board()
        tasks = start(Scheduler(board), q(), q(), q("other"))
        await settle()
        assert len(board.asked) == 2
        board.answer(0, "A")
        board.answer(1, "B")
        first, second, other = await gather(*tasks)
        assert (first.text, second.text, other.text) == ("A", "A", "B")
        assert first.usage == Usage(1, 1, 1)
        assert second.usage == Usage(cached_calls=1, cached_tokens=2, cached_prompt_tokens=1)

    run(main())


def test_draws_of_one_question_fuse() -> None:
    async def main() -> None:
        board = Board(max_n=16)
        model = Scheduler(board)
        task = asyncio.ensure_future(sample(model, q(), 8))
        await settle()
        assert [[draws.n for draws in batch] for batch in board.asked] == [[8]]
        assert board.asked[0][0].samples == tuple((i,) for i in range(8))
        board.answer(0, *"abcdefgh")
        assert [c.text for c in await task] == list("abcdefgh")
        assert model.wire_requests == 1
        assert model.draws == 8

    run(main())


def test_draws_with_a_seed_do_not_fuse() -> None:
    async def main() -> None:
        board = Board(max_n=16)
        task = asyncio.ensure_future(sample(Scheduler(board), q().with_params(seed=1), 3))
        await settle()
        assert [batch[0].n for batch in board.asked] == [1, 1, 1]
        for i in range(3):
            board.answer(i, str(i))
        await task

    run(main())


def test_a_server_that_ignores_n_is_asked_for_the_rest_and_then_believed() -> None:
    async def main() -> None:
        board = Board(max_n=16)
        model = Scheduler(board)
        task = asyncio.ensure_future(sample(model, q(), 3))
        await settle()
        board.answer(0, "a")
        await settle()
        assert [batch[0].n for batch in board.asked] == [3, 1, 1]
        board.answer(1, "b")
        board.answer(2, "c")
        assert [c.text for c in await task] == ["a", "b", "c"]
        task = asyncio.ensure_future(sample(model, q("next"), 2))
        await settle()
        assert [batch[0].n for batch in board.asked[3:]] == [1, 1]
        task.cancel()

    run(main())


def test_questions_share_a_batch_without_waiting_for_a_timer() -> None:
    async def main() -> None:
        board = Board(max_batch=4, max_in_flight=1)
        tasks = start(Scheduler(board), *(q(str(i)) for i in range(6)))
        await settle()
        assert [len(batch) for batch in board.asked] == [4]
        board.answer(0, *"abcd")
        await settle()
        assert [len(batch) for batch in board.asked] == [4, 2]
        board.answer(1, *"ef")
        assert [c.text for c in await gather(*tasks)] == list("abcdef")

    run(main())


def test_different_parameters_do_not_share_a_batch() -> None:
    async def main() -> None:
        board = Board(max_batch=4)
        tasks = start(Scheduler(board), q("a"), q("b").with_params(temperature=1.0), q("c"))
        await settle()
        assert [[d.request.prompt for d in batch] for batch in board.asked] == [["a", "c"], ["b"]]
        for task in tasks:
            task.cancel()

    run(main())


def test_one_bad_prompt_of_a_batch_fails_alone() -> None:
    async def main() -> None:
        board = Board(max_batch=4)
        tasks = start(Scheduler(board), *(q(text) for text in ("a", "bad", "c")))
        await settle()
        board.answers[0].set_exception(BadRequest("no", status=400))
        await settle()
        assert [len(batch) for batch in board.asked] == [3, 1, 1, 1]
        board.answer(1, "A")
        board.answer(2, BadRequest("no", status=400))
        board.answer(3, "C")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(o, "text", type(o)) for o in outcomes] == ["A", BadRequest, "C"]

    run(main())


def test_the_oldest_program_goes_first() -> None:
    async def main() -> None:
        board = Board(max_in_flight=1)
        model = Scheduler(board)
        tasks = start(model, q("running"))
        await settle()
        for age in (3, 1, 2):
            with scope.setting(scope.age, age):
                tasks += start(model, q(f"age {age}"))
        for i in range(4):
            await settle()
            board.answer(i, "x")
        await gather(*tasks)
        assert [batch[0].request.prompt for batch in board.asked] == ["running", "age 1", "age 2", "age 3"]

    run(main())


def test_no_more_wire_requests_than_allowed() -> None:
    async def main() -> None:
        board = Board()
        model = Scheduler(board, limits=Limits(max_in_flight=2))
        tasks = start(model, *(q(str(i)) for i in range(5)))
        for i in range(5):
            await settle()
            assert model.in_flight <= 2
            board.answer(i, "x")
        await gather(*tasks)

    run(main())


def test_overload_halves_what_is_in_flight_and_success_raises_it_again() -> None:
    async def main() -> None:
        board = Board()
        model = Scheduler(board, limits=Limits(max_in_flight=8), retry=AT_ONCE)
        tasks = start(model, *(q(str(i)) for i in range(30)))
        await settle()
        assert model.in_flight == 8
        board.answer(0, ServerError("overloaded", status=529))
        board.answer(1, ServerError("overloaded", status=529))  # of the same round: no second cut
        for i in range(2, 8):
            board.answer(i, "x")
        await settle()
        assert model.in_flight == 5  # half of 8, and one more for six successes
        answered = 8
        while answered < len(board.asked):
            board.answer(answered, "x")
            answered += 1
            await settle()
        await gather(*tasks)
        assert 4 < model.admission.limit <= 8

    run(main())


def test_cancelling_reaches_the_wire_only_when_nobody_waits() -> None:
    async def main() -> None:
        board = Board()
        model = Scheduler(board)
        one, other = start(model, q(), q())
        await settle()
        one.cancel()
        await settle()
        assert board.cancelled == 0
        other.cancel()
        await settle()
        assert board.cancelled == 1
        assert model.in_flight == 0
        assert model.waiting == 0

    run(main())


def test_a_survivor_of_a_cancelled_payer_pays() -> None:
    async def main() -> None:
        board = Board()
        payer, sharer = start(Scheduler(board), q(), q())
        await settle()
        payer.cancel()
        board.answer(0, "A")
        assert (await sharer).usage == Usage(1, 1, 1)

    run(main())


def test_a_draw_cancelled_while_waiting_is_never_sent() -> None:
    async def main() -> None:
        board = Board(max_in_flight=1)
        tasks = start(Scheduler(board), q("a"), q("b"), q("c"))
        await settle()
        tasks[1].cancel()
        board.answer(0, "A")
        await settle()
        board.answer(1, "C")
        await tasks[2]
        assert [batch[0].request.prompt for batch in board.asked] == ["a", "c"]

    run(main())


def test_an_answer_after_cancelling_one_of_a_fused_request_reaches_the_others() -> None:
    async def main() -> None:
        board = Board(max_n=8)
        tasks = start(Scheduler(board), q("q", 0), q("q", 1))
        await settle()
        tasks[0].cancel()
        await settle()
        board.answer(0, "a", "b")
        assert (await tasks[1]).text == "b"

    run(main())


@pytest.mark.parametrize("error", [ConnectionFailed("x"), ServerError("x", status=500), RateLimited("x", status=429)])
def test_retryable_errors_are_tried_again(error: ModelError) -> None:
    async def main() -> None:
        board = Board()
        model = Scheduler(board, retry=AT_ONCE)
        (task,) = start(model, q())
        await settle()
        board.answer(0, error)
        while len(board.answers) < 2:
            await asyncio.sleep(0)
        board.answer(1, "A")
        assert (await task).text == "A"
        assert model.retries == 1

    run(main())


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(AuthenticationFailed("x"), 1), (BadRequest("x"), 1), (MalformedResponse("x"), 3), (ConnectionFailed("x"), 6)],
)
def test_attempts_are_bounded_by_the_error(error: ModelError, attempts: int) -> None:
    async def main() -> None:
        board = Board()
        (task,) = start(Scheduler(board, retry=AT_ONCE), q())
        answered = 0
        while not task.done():
            await asyncio.sleep(0)
            while answered < len(board.answers):
                board.answer(answered, error)
                answered += 1
        with pytest.raises(type(error)):
            await task
        assert answered == attempts

    run(main())


def test_an_outage_is_not_multiplied() -> None:
    """500 tokens, 5 a retry: 1,000 failing calls cost at most 100 requests more."""

    async def main() -> None:
        board = Board()
        model = Scheduler(board, limits=Limits(max_in_flight=10_000), retry=AT_ONCE)
        tasks = start(model, *(q(str(i)) for i in range(1000)))
        answered = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            while answered < len(board.answers):
                board.answer(answered, ServerError("down", status=500))
                answered += 1
        assert answered <= 1100
        assert all(isinstance(task.exception(), ServerError) for task in tasks)

    run(main())


def test_a_long_retry_after_parks_the_endpoint() -> None:
    async def main() -> None:
        board = Board(max_in_flight=1)
        tasks = start(Scheduler(board, retry=AT_ONCE), q("a"), q("b"))
        await settle()
        board.answer(0, RateLimited("later", status=429, retry_after=3600))
        for task in tasks:
            with pytest.raises(RateLimited):
                await task
        assert len(board.asked) == 1
        assert "3600 s" in str(tasks[1].exception())

    run(main())


def test_a_short_retry_after_holds_everybody_back_and_is_never_early() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        board = Board(max_in_flight=1)
        tasks = start(Scheduler(board, retry=AT_ONCE), q("a"), q("b"))
        await settle()
        asked = loop.time()
        board.answer(0, RateLimited("slow down", status=429, retry_after=0.05))
        while len(board.answers) < 2:
            await asyncio.sleep(0)
        assert loop.time() - asked >= 0.05
        board.answer(1, "x")
        while len(board.answers) < 3:
            await asyncio.sleep(0)
        board.answer(2, "x")
        await gather(*tasks)

    run(main())


def test_the_deadline_is_total() -> None:
    async def main() -> None:
        board = Board()
        model = Scheduler(board, retry=RetryPolicy(base=0.0, deadline=0.05))
        with pytest.raises(DeadlineExceeded):
            await model(q())
        assert board.cancelled == 1

    run(main())


def test_a_fault_in_a_backend_reaches_its_callers() -> None:
    async def main() -> None:
        board = Board()
        (task,) = start(Scheduler(board), q())
        await settle()
        board.answers[0].set_exception(ZeroDivisionError("bug"))
        with pytest.raises(EngineError, match="ZeroDivisionError: bug"):
            await task

    run(main())


def test_each_caller_gets_an_error_of_its_own() -> None:
    async def main() -> None:
        board = Board()
        tasks = start(Scheduler(board), q(), q())
        await settle()
        board.answer(0, AuthenticationFailed("wrong key"))
        first, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert first is not second
        assert str(first) == str(second) == "wrong key"

    run(main())


def test_a_stream_that_breaks_after_its_first_delta_is_not_tried_again() -> None:
    async def main() -> None:
        pieces: list[object] = []
        with pytest.raises(ConnectionFailed):
            async for piece in stream(Scheduler(Board(), retry=AT_ONCE), q()):
                pieces.append(piece)  # noqa: PERF401 - what came before the error is the point
        assert pieces == [Delta("par")]

    run(main())


def test_one_scheduler_serves_one_event_loop_after_another() -> None:
    board = Board()
    model = Scheduler(board)

    async def ask(i: int) -> str:
        (task,) = start(model, q(str(i)))
        await settle()
        board.answer(i, f"answer {i}")
        return (await task).text

    assert [run(ask(i)) for i in range(2)] == ["answer 0", "answer 1"]


def test_ten_thousand_waiting_draws_need_no_polling() -> None:
    async def main() -> None:
        board = Board(max_in_flight=10)
        model = Scheduler(board)
        tasks = start(model, *(q(str(i)) for i in range(10_000)))
        await settle()
        assert model.in_flight == 10
        assert model.waiting == 9_990
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert model.in_flight == model.waiting == 0

    run(main())


def test_what_is_no_fault_of_the_model_reaches_the_callers_as_it_is() -> None:
    async def main() -> None:
        board = Board()
        scheduler = Scheduler(board, retry=AT_ONCE)
        calls = start(scheduler, q("a"), q("b"))
        await settle()
        for answer in board.answers:
            answer.set_exception(StoreError("the disk is full"))
        for call in calls:
            with pytest.raises(StoreError, match="the disk is full"):
                await call
        assert scheduler.in_flight == 0

    run(main())
