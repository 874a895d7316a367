"""One budget over all rows: never exceeded, no row left waiting, the same for the same draws, and well spent."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType, structs
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.scripted import Script, ScriptedBackend
from shoal.batch.allocation import Allocation, allocation_for, calls_of_a_sample
from shoal.batch.directory import RunDirectory
from shoal.batch.rows import Input, Row
from shoal.batch.runner import BatchRun
from shoal.cli.show import RunProgress
from shoal.errors import BudgetExceeded, ServerError, UsageError
from shoal.runtime.allocation import Wish
from shoal.runtime.backend import Draws, Outcome
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Completion, Request, Usage
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.re_reading import re_reading
from shoal.techniques.self_consistency import self_consistency

# Rows that are mere coroutines


class Rows:
    """Rows that sample, fail, end and are cancelled at random, each after a random number of turns of the loop."""

    def __init__(self, seed: int, count: int, timing: int, budget: Budget) -> None:
        self.seed, self.timing, self.budget = seed, timing, budget
        self.allocation = Allocation(budget, count)
        self.usages = [Usage() for _ in range(count)]
        self.given: dict[int, list[int]] = {number: [] for number in range(count)}

    async def row(self, number: int) -> None:
        chance, turns = random.Random(f"{self.seed} {number}"), random.Random(f"{self.timing} {number}")
        seat = self.allocation.seat(number, lambda: self.usages[number])
        try:
            for _ in range(turns.randrange(5)):
                await asyncio.sleep(0)
            size = chance.randrange(1, 50)
            while chance.random() < 0.9:
                gains = tuple(chance.random() for _ in range(chance.randrange(1, 5)))
                more = await seat.more(Wish(gains, size // 2, 2 * size))
                self.given[number].append(more)
                if not more:
                    return
                for _ in range(turns.randrange(5)):
                    await asyncio.sleep(0)
                for _ in range(more):
                    self.usages[number] += Usage(size // 2, chance.randrange(1, size + 1), 1)
                if chance.random() < 0.05:
                    raise ServerError("down")
        finally:
            seat.leave(answered=True)

    async def all(self) -> None:
        order = list(range(len(self.usages)))
        random.Random(self.timing).shuffle(order)
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*map(self.row, order), return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, ServerError | BudgetExceeded) for outcome in outcomes)

    @property
    def spent(self) -> Usage:
        return sum(self.usages, Usage())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(40, 8_000), st.one_of(st.none(), st.integers(40, 300)))
def test_rows_of_any_kind_end_within_the_budget_whatever_comes_first(
    seed: int, count: int, tokens: int, calls: int | None
) -> None:
    first, second = (Rows(seed, count, timing, Budget(calls, tokens)) for timing in (1, 2))
    run(first.all())
    run(second.all())
    assert first.spent.total_tokens <= tokens
    assert calls is None or first.spent.calls <= calls
    assert (first.given, first.spent, first.allocation.rounds) == (second.given, second.spent, second.allocation.rounds)


def test_a_row_that_is_cancelled_asleep_holds_up_nobody() -> None:
    async def main() -> None:
        allocation = Allocation(Budget(calls=10), 2)
        seats = [allocation.seat(number, Usage) for number in range(2)]

        async def row(number: int) -> int:
            try:
                return await seats[number].more(Wish((0.5,), 1, 2))
            finally:
                seats[number].leave(answered=False)

        first = asyncio.ensure_future(row(0))
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.wait_for(row(1), 5) == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    run(main())


def test_a_stopped_allocation_wakes_all_and_takes_nobody() -> None:
    async def main() -> None:
        allocation = Allocation(Budget(calls=10), 3)
        seats = [allocation.seat(number, Usage) for number in range(3)]
        asleep = [asyncio.ensure_future(seat.more(Wish((0.5,), 1, 2))) for seat in seats[:2]]
        await asyncio.sleep(0)
        allocation.stop("the run was interrupted")
        for task in asleep:
            with pytest.raises(BudgetExceeded, match="interrupted"):
                await asyncio.wait_for(task, 5)
        with pytest.raises(BudgetExceeded, match="interrupted"):
            await seats[2].more(Wish((0.5,), 1, 2))

    run(main())


# Votes over rows


async def unrated(completion: Completion, _: Row) -> tuple[str | None, UnsetType]:
    return completion.answer, UNSET


def says(share_of_one: dict[str, float]) -> Script:
    """Says 1 with the probability of the question's kind, else 2; a draw says the same always."""

    def script(request: Request) -> str:
        chance = random.Random(f"{request.text} {request.sample}")
        kind = next(kind for kind in share_of_one if kind in request.text)
        return f"The answer is {1 if chance.random() < share_of_one[kind] else 2}."

    return script


class Votes:
    """A run of votes on a scripted model, whose directory is kept from one call to the next."""

    def __init__(self, tmp_path: Path, script: Script, questions: list[str], **options: Any) -> None:
        self.path = tmp_path
        (tmp_path / "data.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in questions))
        self.rows = Input(tmp_path / "data.jsonl")
        self.backend = ScriptedBackend(script, max_n=1)
        self.model: Model = apply(self_consistency, BaseModel(self.backend, retry=AT_ONCE), **options)
        self.batch: BatchRun | None = None

    def __call__(self, budget: Budget, max_tokens: int | None = 8) -> BatchRun:
        self.asked = len(self.backend.requests)
        with RunDirectory(self.path / "run", {}, self.rows) as place:
            batch = BatchRun(place, self.rows, model="m", technique=None, window=2, judge=unrated)
            batch.allocation = allocation_for(self.model, self.rows, budget)
            self.batch = batch
            ask = lambda row: self.model(Request.of(row["q"], max_tokens=max_tokens))  # noqa: E731
            run(asyncio.wait_for(batch.execute(ask, budget), 60))
            batch.write_output(self.path / "output.jsonl")
        self.result = batch.allocation.result()
        self.budget = budget
        return batch

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "output.jsonl").read_text().splitlines()]

    def samples(self) -> Counter[str]:
        """Mean samples by the first word of the question."""
        words = Counter(request.text.split()[0] for request in self.backend.requests)
        rows = Counter(record["input"]["q"].split()[0] for record in self.records())
        return Counter({word: words[word] / rows[word] for word in rows})  # type: ignore[arg-type]


KINDS = {"easy": 1.0, "fair": 0.8, "hard": 0.52}
QUESTIONS = [f"{kind} {i}" for i in range(20) for kind in KINDS]


def test_hard_rows_get_what_easy_ones_do_without(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says(KINDS), QUESTIONS, n=8)
    votes(Budget(calls=8 * len(QUESTIONS)))
    samples = votes.samples()
    assert samples["easy"] < samples["fair"] < samples["hard"]
    assert samples["easy"] < 7
    assert samples["hard"] > 9
    assert len(votes.backend.requests) == 8 * len(QUESTIONS)  # all of the budget and no more
    result = votes.result
    assert result is not None
    assert result.samples == 8 * len(QUESTIONS)
    assert result.least >= 2
    assert result.most <= 32
    assert result.moved > len(QUESTIONS)


def test_more_than_can_help_is_not_spent(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says({"easy": 1.0}), [f"easy {i}" for i in range(10)], n=8)
    votes(Budget(calls=1000))
    assert votes.samples()["easy"] == pytest.approx(9, abs=3)  # 9 votes without dissent are 99.9 %
    assert votes.result is not None
    assert votes.result.settled == 10


@pytest.mark.parametrize("budget", [{"calls": 240}, {"tokens": 1500}])
def test_with_a_warm_cache_the_same_run_is_had_for_nothing(tmp_path: Path, budget: dict[str, int]) -> None:
    asked, results, outputs = [], [], []
    for name in ("cold", "warm"):
        (tmp_path / name).mkdir()
        votes = Votes(tmp_path / name, says(KINDS), QUESTIONS)
        votes.model = apply(self_consistency, BaseModel(votes.backend, cache=DrawCache(tmp_path / "cache")), n=8)
        votes(Budget(**budget))
        asked.append(len(votes.backend.requests))
        results.append(votes.result)
        outputs.append([record["answer"] for record in votes.records()])
    assert asked[0] > 200
    assert asked[1] == 0
    assert results[0] == results[1]
    assert outputs[0] == outputs[1]


def test_progress_is_told_in_rounds_and_in_what_is_shared_out(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says(KINDS), QUESTIONS, n=8)
    batch = votes(Budget(calls=480))
    assert votes.result is not None
    told = RunProgress(batch, votes.model)._facts()
    assert told == f"480 calls · 0 in flight · round {votes.result.rounds} · 100% of the budget shared out"


def test_a_rule_of_its_own_ends_a_vote(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says({"easy": 1.0}), [f"easy {i}" for i in range(10)], n=8, stop="beta", confidence=0.9)
    votes(Budget(calls=1000))
    assert votes.samples()["easy"] <= 6
    assert votes.records()[0]["answer"] == "1"


def test_no_row_gets_more_than_four_times_n(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says({"hard": 0.5}), ["hard 0", "hard 1"], n=3)
    votes(Budget(calls=1000))
    assert votes.samples()["hard"] <= 12


def test_tokens_are_never_exceeded_and_nearly_all_spent(tmp_path: Path) -> None:
    def wordy(request: Request) -> str:
        chance = random.Random(f"{request.text} {request.sample}")
        return "well " * chance.randrange(30) + says(KINDS)(request)

    votes = Votes(tmp_path, wordy, QUESTIONS, n=8)
    for tokens in (5_000, 9_000, 12_345):
        for file in (tmp_path / "run").glob("*"):
            file.unlink()
        votes(Budget(tokens=tokens), max_tokens=40)
        spent = votes.budget.spent.total_tokens
        assert spent == sum(sum(r["usage"][k] for k in ("prompt_tokens", "completion_tokens")) for r in votes.records())
        assert 0.97 * tokens <= spent <= tokens


def test_prompts_that_several_samples_share_are_counted_once(tmp_path: Path) -> None:
    """The model is asked for several draws at once, and a row is come back to less often."""

    class Sharing(ScriptedBackend):
        async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
            outcomes = await super().generate(batch)
            return [
                [reply if i == 0 else _without_prompt(reply) for i, reply in enumerate(outcome)]
                for outcome in outcomes
                if isinstance(outcome, list)
            ]

    questions = [f"{question} {'very ' * 60}" for question in QUESTIONS]
    votes = Votes(tmp_path, says(KINDS), questions, n=8)
    votes.backend = Sharing(says(KINDS), max_n=64)
    votes.model = apply(self_consistency, BaseModel(votes.backend, retry=AT_ONCE), n=8)
    even = len(questions) * (62 + 8 * 4)
    votes(Budget(tokens=even))
    spent = votes.budget.spent.total_tokens
    assert 0.9 * even <= spent <= even
    assert len(votes.backend.batches) < 1.6 * len(questions)
    assert votes.result is not None
    assert votes.result.least >= 3


@pytest.mark.parametrize("tokens", [2_200, 3_000, 4_500])
def test_no_row_goes_without_where_replies_could_be_longer_than_its_part(tmp_path: Path, tokens: int) -> None:
    """Of replies that nothing limits up to 256 tokens are held for each; no row gets more before all got one."""
    votes = Votes(tmp_path, says(KINDS), [f"{question} {'very ' * 10}" for question in QUESTIONS])
    votes.backend = ScriptedBackend(says(KINDS), max_n=4)
    votes.model = apply(self_consistency, BaseModel(votes.backend, retry=AT_ONCE), n=8)
    votes(Budget(tokens=tokens), max_tokens=None)
    assert votes.budget.spent.total_tokens <= tokens
    assert all(record["error"] is None for record in votes.records())


def _without_prompt(reply: Completion) -> Completion:
    return structs.replace(reply, usage=structs.replace(reply.usage, prompt_tokens=0))


def test_lengths_count(tmp_path: Path) -> None:
    """Of rows as undecided, those with short replies get more samples."""

    def script(request: Request) -> str:
        return ("well " * 30 if "long" in request.text else "") + says({"short": 0.5, "long": 0.5})(request)

    questions = [f"{kind} {i}" for i in range(30) for kind in ("short", "long")]
    votes = Votes(tmp_path, script, questions, n=8)
    votes(Budget(tokens=8 * 60 * 20), max_tokens=40)
    samples = votes.samples()
    assert samples["short"] > 1.3 * samples["long"]


def test_rows_that_cannot_be_read_do_not_sink_the_budget(tmp_path: Path) -> None:
    def script(request: Request) -> str | Completion:
        if "mute" in request.text:
            return Completion("and so on and so", finish_reason="length")
        return says(KINDS)(request)  # type: ignore[return-value]

    votes = Votes(tmp_path, script, [*QUESTIONS, *(f"mute {i}" for i in range(20))], n=8)
    votes(Budget(calls=8 * 80))
    samples = votes.samples()
    assert samples["mute"] <= 8
    assert samples["hard"] > 8
    mute = [record for record in votes.records() if "mute" in record["input"]["q"]]
    assert {record["answer"] for record in mute} == {None}


def test_rows_that_fail_leave_the_others_theirs(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        if "bad" in request.text and request.sample[-1] >= int(request.text[-1]):
            raise ServerError("down", retryable=False)
        return says(KINDS | {"bad": 0.5})(request)

    votes = Votes(tmp_path, script, [*QUESTIONS, *(f"bad {i}" for i in range(10))], n=8)
    batch = votes(Budget(calls=8 * 70))
    assert batch.errors["ServerError"] >= 8  # those with 8 and 9 good draws may get no more
    good = [record for record in votes.records() if "bad" not in record["input"]["q"]]
    assert all(record["answer"] for record in good)
    assert sum(record["usage"]["calls"] for record in votes.records()) <= 8 * 70


def test_a_vote_within_a_sample_asks_nobody(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says(KINDS), QUESTIONS, n=4)
    inner = votes.model.model  # type: ignore[attr-defined]
    votes.model = apply(self_consistency, apply(self_consistency, apply(re_reading, inner), n=3), n=4)
    assert calls_of_a_sample(votes.model) == 3
    votes(Budget(calls=12 * len(QUESTIONS)))
    assert len(votes.backend.requests) == 12 * len(QUESTIONS)
    assert {len(request.sample) for request in votes.backend.requests} == {2}


def test_several_models_give_samples_in_turn(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says(KINDS), QUESTIONS, n=4)
    other = ScriptedBackend(says(KINDS), name="other")
    proposers = [BaseModel(votes.backend, retry=AT_ONCE), BaseModel(other, retry=AT_ONCE)]
    votes.model = apply(self_consistency, proposers[0], n=4, proposers=proposers)
    votes(Budget(calls=4 * len(QUESTIONS)))
    assert len(votes.backend.requests) + len(other.requests) == 4 * len(QUESTIONS)
    assert other.requests


def test_a_finished_run_is_followed_without_a_call(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says(KINDS), QUESTIONS, n=8)
    votes(Budget(calls=400))
    before, first = (tmp_path / "output.jsonl").read_bytes(), votes.result
    votes(Budget(calls=400))
    assert len(votes.backend.requests) == votes.asked
    assert votes.result == first
    assert (tmp_path / "output.jsonl").read_bytes() == before


@pytest.mark.parametrize(("after", "calls"), [(1, 400), (61, 400), (333, 400), (390, 400), (600, 800), (750, 800)])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, after: int, calls: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = Votes(tmp_path / "whole", says(KINDS), QUESTIONS, n=8)
    whole(Budget(calls=calls))

    def script(request: Request) -> str:
        if len(votes.backend.requests) == after and votes.batch is not None:
            votes.batch.interrupt()
        return says(KINDS)(request)

    votes = Votes(tmp_path, script, QUESTIONS, n=8)
    assert votes(Budget(calls=calls)).interrupted
    assert len(votes.records()) < len(QUESTIONS)
    votes(Budget(calls=calls))
    assert sorted(votes.backend.requests, key=repr) == sorted(whole.backend.requests, key=repr)  # none asked twice
    assert (tmp_path / "output.jsonl").read_bytes() == (tmp_path / "whole" / "output.jsonl").read_bytes()


def test_a_resumed_run_counts_what_was_spent_before(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        if len(votes.backend.requests) == 200:
            raise RuntimeError("the process dies here, as far as this row is concerned")
        return says(KINDS)(request)

    votes = Votes(tmp_path, script, QUESTIONS, n=8)
    votes(Budget(calls=400))
    votes(Budget(calls=400))  # the row that failed is tried again
    assert all(record["answer"] for record in votes.records())
    assert votes.budget.spent.calls <= 400


def test_rows_without_a_first_sample_are_left_undone(tmp_path: Path) -> None:
    """Nothing tells before how long replies are: here the budget is good for half of them."""
    votes = Votes(tmp_path, lambda _: "well " * 38 + "it is 1.", [f"easy {i}" for i in range(20)], n=8)
    batch = votes(Budget(tokens=450), max_tokens=40)
    assert isinstance(batch.stopped, BudgetExceeded)
    done = [record for record in votes.records() if record["error"] is None]
    assert len(done) == 10
    assert votes.budget.spent.total_tokens <= 450


def test_a_budget_that_cannot_be_enough_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="10 calls is not enough for one sample of each of 60 rows"):
        Allocation(Budget(calls=10), 60)
    with pytest.raises(UsageError, match="give one of tokens or calls"):
        Allocation(Budget(seconds=10), 60)
    with pytest.raises(UsageError, match="give one of tokens or calls"):
        Allocation(None, 60)
    votes = Votes(tmp_path, says(KINDS), [f"easy {'very ' * 40}{i}" for i in range(10)])
    batch = votes(Budget(tokens=400))
    assert not votes.backend.requests
    assert "400 tokens is not enough for one sample of each of 10 rows" in str(batch.stopped)


def test_only_a_vote_can_be_allocated() -> None:
    base = BaseModel(ScriptedBackend(lambda _: "1"))
    for model in (base, apply(best_of_n, base), apply(re_reading, apply(self_consistency, base))):
        with pytest.raises(UsageError, match="the outermost technique is to be self_consistency"):
            calls_of_a_sample(model)


def test_similarity_cannot_be_allocated(tmp_path: Path) -> None:
    votes = Votes(tmp_path, says(KINDS), ["easy 1"], similarity=lambda a, b: 1.0)
    batch = votes(Budget(calls=10))
    assert batch.errors == {"UsageError": 1}
