"""Comparisons by a provider's batch API: what a live one finds, at half the price, nothing paid twice."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs
from tests.backends.faulty_batches import FaultyBatches, Order, paid
from tests.batch.waving import draws_paid, live_paid, serving, settings, waves_sent
from tests.scripting import run

import shoal
from shoal.backends.config import Config, Endpoint
from shoal.backends.waves import WaveStore
from shoal.errors import BudgetExceeded, RunError, UsageError
from shoal.evaluation.comparing.result import Comparison
from shoal.runtime.budget import Budget

pytestmark = pytest.mark.usefixtures("at_home")
ROWS: list[dict[str, Any]] = [{"q": f"question {i}", "gold": i % 3} for i in range(8)]
ARMS = ["self_consistency(n=1..4)", "re_reading", "critique(rounds=1)"]
PRICES = {"lab/m": {"input": 10.0, "output": 20.0}}
BATCHED = "asked by the batch API: dollars are as if all calls to lab/m went by it, and seconds, of which batches tell "


def reply(body: dict[str, Any], choice: int) -> str:
    """Right at some questions; a judge's mark by the length of what it is shown.

    The choices of a request are alike, because arms may share one, or not.
    """
    said = body["messages"][-1]["content"]
    if body["model"] == "judge":
        return f"Score: {len(said) % 10}"
    return f"Well. The answer is {sum(map(ord, said)) % 3}."


def differing(body: dict[str, Any], choice: int) -> str:
    """Of one arm, whose draws of a question are one request."""
    return f"It is hard. The answer is {choice}." if choice % 3 == 1 else reply(body, choice)


def config_of(server: FaultyBatches) -> Config:
    return Config(endpoints={"lab": Endpoint(server.base_url, server.key)}, prices=PRICES)


async def compared(server: FaultyBatches, techniques: Any = ARMS, **options: Any) -> Comparison:
    """By the batch API, unless the options say otherwise."""
    given = {"report_dir": "report", "batch_api": settings(), "template": "{q}", "scorer": "number", "model": "lab/m"}
    compare: Callable[..., Awaitable[Comparison]] = shoal.acompare
    return await compare(ROWS, techniques, **(given | {"answer": "gold", "config": config_of(server)} | options))


def as_found(comparison: Comparison) -> Comparison:
    """Without when it was made, what it cost, and notes."""
    arms = [structs.replace(arm, seconds=None, dollars=None, paid_tokens=0) for arm in comparison.arms]
    return structs.replace(comparison, arms=tuple(arms), notes=(), made="")


def outputs(directory: str) -> dict[str, list[Any]]:
    """What each arm answered, and its scores."""
    records = {path.parent.name: path for path in Path(directory).glob("arms/*/output.jsonl")}
    return {
        name: [(each["output"], each["score"]) for each in map(msgspec.json.decode, path.read_bytes().splitlines())]
        for name, path in records.items()
    }


def settled() -> bool:
    store = WaveStore(Path("report"), read_only=True)
    try:
        return {wave.state for wave in store.waves()} == {"settled"}
    finally:
        store.close()


def test_the_report_is_that_of_a_live_comparison_at_half_the_price() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            by_batch = await compared(server)
            assert live_paid() == 0
            spent = draws_paid()
            # A step of all arms is one wave: the questions and re_reading's; then what critique asks of each answer.
            assert waves_sent()[0] == 2 * len(ROWS)
            assert len(server.batches) == 3
            assert all(spent[row["q"]] == 1 + 4 for row in ROWS)  # of 6 that arms asked for
            live = await compared(server, report_dir="live", batch_api=False)
            assert draws_paid() == {question: 2 * n for question, n in spent.items()}
        assert as_found(by_batch) == as_found(live)
        assert outputs("report") == outputs("live")
        assert [point.n for point in by_batch.arms[1].curve] == [1, 2, 4]
        assert sum(arm.paid_tokens for arm in by_batch.arms) <= sum(arm.paid_tokens for arm in live.arms)
        for half, whole in zip(by_batch.arms, live.arms, strict=True):
            assert half.seconds is None
            assert whole.seconds is not None
            assert whole.dollars
            assert half.dollars == pytest.approx(whole.dollars / 2)
        assert [note.startswith(BATCHED) for note in by_batch.notes].count(True) == 1
        assert not any("batch API" in note for note in live.notes)
        assert settled()

    run(main())


def test_a_curve_and_its_ratings_are_those_of_a_live_comparison() -> None:
    async def main() -> None:
        async with serving(differing) as server:
            options: dict[str, Any] = {"plain": False, "scorer": "judge(model=lab/judge)", "answer": None}
            by_batch = await compared(server, ["self_consistency(n=1..8)"], **options)
            assert live_paid() == 0
            # The answers; their ratings; those of the other answers of smaller sizes, of all rows.
            assert len(server.batches) == 3
            live = await compared(
                server, ["self_consistency(n=1..8)"], **(options | {"report_dir": "live", "batch_api": False})
            )
            assert len(live.arms[0].curve) == 4
            assert as_found(by_batch) == as_found(live)
            assert settled()
            before = len(paid(Path("provider")))
            again = await compared(server, ["self_consistency(n=1..8)"], **options)
            assert as_found(again) == as_found(by_batch)
            assert len(paid(Path("provider"))) == before

    run(main())


def test_an_arm_more_asks_only_for_what_is_new_and_a_live_comparison_goes_on_from_waves() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            await compared(server, ["self_consistency(n=2)"])
            await compared(server, ["self_consistency(n=3)"])
            assert [draws_paid()[row["q"]] for row in ROWS] == [1 + 3] * len(ROWS)
            assert waves_sent() == [len(ROWS), len(ROWS)]
            found = await compared(server, ["self_consistency(n=4)"], batch_api=False)
            assert live_paid() == len(ROWS)
            (note,) = [note for note in found.notes if "batch API" in note]
            assert "tokens asked by the batch API, the others live: dollars are as if all calls were live" in note
            assert found.arms[1].seconds is None
            again = await compared(server, ["self_consistency(n=4)"], batch_api=False, replay=True)
            assert as_found(again) == as_found(found)

    run(main())


def test_the_tail_goes_live_and_is_told() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            found = await compared(server, ["critique(rounds=1)"], batch_api=settings(tail_live=len(ROWS)), plain=False)
            assert live_paid() == 3 * len(ROWS)
            assert [arm.seconds is None for arm in found.arms] == [False]
            assert any("dollars are as if all calls to lab/m went by it" in note for note in found.notes)

    run(main())


def test_sizes_for_an_equal_budget_are_chosen_at_the_batch_price_by_waves_that_techniques_share() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            options: dict[str, Any] = {"equal_budget": "dollars=0.0003", "pilot": 4, "plain": False}
            by_batch = await compared(server, ["self_consistency(n=2)"], **options)
            assert live_paid() == 0
            doubled = {"batch_api": False, "report_dir": "live", "equal_budget": "dollars=0.0006"}
            live = await compared(server, ["self_consistency(n=2)"], **(options | doubled))
            same = await compared(server, ["self_consistency(n=2)"], **(options | {"batch_api": False}))
            assert by_batch.arms[0].name == live.arms[0].name != same.arms[0].name
            assert by_batch.budget == "$0.0003 a row by batch"

    run(main())


def test_a_budget_in_dollars_counts_batch_prices() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            params = shoal.SamplingParams(max_tokens=16)
            await compared(server, report_dir="measured", params=params)
            cost = 0.0
            for each in paid(Path("provider")):
                used, n = each.reply["usage"], each.body.get("n", 1)
                cost += (used["prompt_tokens"] * 10 + n * 16 * 20) / 2e6  # with the most that replies may be
            with pytest.raises(BudgetExceeded):
                await compared(server, report_dir="live", params=params, batch_api=False, budget=Budget(dollars=cost))
            found = await compared(server, params=params, budget=Budget(dollars=1.2 * cost))
            assert sum(arm.failed for arm in found.arms) == 0
            with pytest.raises(BudgetExceeded):
                await compared(server, report_dir="less", params=params, budget=Budget(dollars=cost / 4))
            await compared(server, report_dir="less", params=params, budget=Budget(dollars=1.2 * cost))
            assert outputs("less") == outputs("report")

    run(main())


def test_rows_that_may_sleep_are_those_of_all_arms_together() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            await compared(server, ["re_reading"], batch_api=settings(rows=8))
            assert [batch["request_counts"]["total"] for batch in server.batches] == [8, 8]

    run(main())


@pytest.mark.parametrize(
    "orders",
    [
        [Order(fates={0: "500", 1: "429", 2: "lost"}, reorder=1)],
        [Order(expire_after=5), Order(expire_after=3)],
        [Order(fail="token_limit_exceeded")],
    ],
)
def test_whatever_becomes_of_a_wave_the_report_is_the_same(orders: list[Order]) -> None:
    async def main() -> None:
        async with serving(reply) as server:
            server.order(*orders)
            found = await compared(server)
            live = await compared(server, report_dir="live", batch_api=False)
        assert as_found(found) == as_found(live)

    run(main())


def test_a_live_comparison_is_refused_while_waves_are_out() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            server.order(Order(hold=True, done=4))
            task = asyncio.create_task(compared(server, ["self_consistency(n=2)"]))
            await server.until("GET /v1/batches/{id}", 2)
            task.cancel()
            await asyncio.wait([task])
            with pytest.raises(RunError, match="report waits for 8 calls sent by the batch API; add --batch-api to"):
                await compared(server, ["self_consistency(n=2)"], batch_api=False)
            server.release()
            found = await compared(server, ["self_consistency(n=2)"])
            assert sum(arm.failed for arm in found.arms) == 0
            assert draws_paid() == {row["q"]: 3 for row in ROWS}
            assert len(server.batches) == 1

    run(main())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"report_dir": None}, "batch_api=True needs report_dir="),
        ({"replay": True}, "replay=True asks nothing; leave batch_api= out"),
        ({"model": "local"}, "needs a server that has /v1/files and /v1/batches; local is none"),
        ({"model": ["lab/m", "local"]}, "needs a server that has /v1/files and /v1/batches; local is none"),
        ({"model": ["lab/m", "other/m"]}, "other/m is at another than lab/m: compare them apart"),
        ({"model": "both"}, "--batch-api is for one endpoint; both is several: name one of them"),
    ],
)
def test_what_cannot_be_compared_by_a_batch_api_is_refused(options: dict[str, Any], said: str) -> None:
    (Path("shoal.toml")).write_text(
        '[endpoints.lab]\nbase_url = "http://127.0.0.1:9/v1"\n[endpoints.other]\nbase_url = "http://127.0.0.1:10/v1"\n'
        '[models.both]\nendpoints = ["lab/m", "other/m"]\n'
    )
    given: dict[str, Any] = {"report_dir": "report", "model": "lab/m", "batch_api": True, "template": "{q}"}
    comparing: Callable[..., Any] = shoal.compare
    with pytest.raises(UsageError) as refused:
        comparing(ROWS, ["re_reading"], answer="gold", scorer="number", **(given | options))
    assert said in str(refused.value)
    assert not Path("report/draws.sqlite-wal").exists()


def test_models_of_one_endpoint_are_compared_in_waves_of_their_own() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            await compared(server, ["re_reading"], model=["lab/m", "lab/o"])
            assert [batch["request_counts"]["total"] for batch in server.batches] == [2 * len(ROWS)] * 2
            assert len({each.body["model"] for each in paid(Path("provider"))}) == 2

    run(main())
