"""Calls that travel by a batch API: every draw once, whatever becomes of waves, files and lines."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.backends.faulty_batches import Order, asked, paid
from tests.batch.waving import (
    RUN,
    draws_paid,
    live_paid,
    mapped,
    model_of,
    outputs,
    same,
    serving,
    settings,
    waves_sent,
)
from tests.scripting import run

import shoal
from shoal.backends.waves import WaveStore
from shoal.errors import AuthenticationFailed, RunError, UsageError
from shoal.runtime.budget import Budget

ITEMS = [f"Q{i}" for i in range(6)]
FAILURES = {"400": "BadRequest", "401": "AuthenticationFailed", "403": "AuthenticationFailed"}
CONTENT = "GET /v1/files/{id}/content"


@shoal.program
async def two_steps(prompt: str) -> str:
    first = await shoal.llm.generate_text(f"begin {prompt}")
    return str(await shoal.llm.generate_text(f"go on from {first}"))


def output_of(directory: Path) -> bytes:
    return (directory / "output.jsonl").read_bytes()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(("-wal", "-shm")))


def store() -> WaveStore:
    return WaveStore(RUN, read_only=True)


def test_draws_of_one_question_are_one_request_and_a_run_one_wave() -> None:
    async def main() -> None:
        async with serving(lambda body, choice: f"The answer is {choice % 2}.") as server:
            records = await mapped(server, ITEMS, spec="self_consistency(n=5)@lab/m")
        assert [record.answer for record in records] == ["0"] * 6
        assert all(record.usage.calls == 5 for record in records)
        assert waves_sent() == [6]
        assert {each.body["n"] for each in paid(Path("provider"))} == {5}

    run(main())


def test_a_program_of_two_steps_is_two_waves_and_answers_as_it_does_live() -> None:
    async def main() -> None:
        async with serving(same) as server:
            records = await mapped(server, ITEMS, subject=two_steps)
            assert waves_sent() == [6, 6]
            with_live = await shoal.amap(two_steps, ITEMS, model=model_of(server), run_dir="live")
        assert live_paid() == 12
        assert output_of(RUN) == output_of(Path("live"))
        assert outputs(records) == outputs(with_live)

    run(main())


def test_what_came_back_is_forgotten_once_the_journal_has_it_and_files_are_removed() -> None:
    async def main() -> None:
        async with serving() as server:
            await mapped(server, ITEMS)
            assert names_in(Path("provider/files")) == []
        kept = store()
        (wave,) = kept.waves()
        assert (wave.state, wave.requests, wave.done) == ("settled", 6, 6)
        assert kept.names(1) == {}
        kept.close()
        assert names_in(RUN) == ["config.json", "journal.sqlite", "lock", "output.jsonl", "waves.sqlite"]

    run(main())


@pytest.mark.parametrize(
    ("orders", "waves"),
    [
        ([Order(reorder=3)], 1),
        ([Order(expire_after=2)], 2),
        ([Order(expire_after=0, unlisted=True)], 2),
        ([Order(fates={0: "429", 3: "500", 5: "503"})], 2),
        ([Order(fates={1: "left-out", 2: "left-out"})], 2),
        ([Order(fates={1: "twice", 2: "twice"})], 1),
        ([Order(fail="token_limit_exceeded")], 3),
        ([Order(expire_after=5), Order(fates={0: "500"})], 3),
    ],
)
def test_whatever_becomes_of_a_wave_each_draw_is_paid_once(orders: list[Order], waves: int) -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(*orders)
            records = await mapped(server, ITEMS)
            assert outputs(records) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert len(server.batches) == waves

    run(main())


@pytest.mark.parametrize("fate", ["lost", "malformed", "cut", "unknown-id", "no-choices"])
def test_an_answer_that_the_provider_loses_is_asked_again(fate: str) -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(fates={2: fate}))
            records = await mapped(server, ITEMS)
        assert outputs(records) == [f'said 0 to "{item}"' for item in ITEMS]
        assert draws_paid() == {**dict.fromkeys(ITEMS, 1), "Q2": 2}

    run(main())


def test_a_wave_of_which_nothing_can_be_read_is_not_paid_again_unasked() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(fates=dict.fromkeys(range(6), "malformed")))
            for _ in range(2):  # the second time the same files are read again
                records = await mapped(server, ITEMS)
                assert outputs(records) == ["MalformedResponse"] * 6
                assert records[0].error is not None
                assert "no reply can be read; the same command reads it again" in records[0].error.message
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert len(names_in(Path("provider/files"))) == 2

    run(main())


def test_a_batch_may_name_its_files_late() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(late=True))
            records = await mapped(server, ITEMS)
            assert outputs(records) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert names_in(Path("provider/files")) == []

    run(main())


def test_what_a_line_cannot_have_befalls_its_row_alone() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(fates={1: "400", 4: "expired"}), Order(fates={0: "expired"}), Order(expire_after=0))
            records = await mapped(server, ITEMS, waves=settings(tries=3))
        assert outputs(records) == [
            *('said 0 to "Q0"', "BadRequest", 'said 0 to "Q2"', 'said 0 to "Q3"'),
            *("DeadlineExceeded", 'said 0 to "Q5"'),
        ]

    run(main())


def test_a_line_that_the_provider_finds_fault_with_fails_alone_and_the_rest_travels_again() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(fates={2: "invalid"}))
            records = await mapped(server, ITEMS)
            assert [batch["status"] for batch in server.batches] == ["failed", "completed"]
        assert outputs(records) == [f'said 0 to "{item}"' if item != "Q2" else "BadRequest" for item in ITEMS]
        error = records[2].error
        assert error is not None
        assert "ordered" in error.message

    run(main())


def test_a_wave_that_fails_as_a_whole_says_why_and_is_not_sent_again() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(fail="model_not_found"))
            records = await mapped(server, ITEMS)
            assert len(server.batches) == 1
        assert outputs(records) == ["BadRequest"] * 6
        assert records[0].error is not None
        assert "model_not_found" in records[0].error.message

    run(main())


def test_a_wave_that_fails_for_a_line_that_it_does_not_have_is_not_sent_again() -> None:
    async def main() -> None:
        async with serving(same) as server, asyncio.timeout(30):
            server.order(*[Order(fail="odd", fail_line=99)] * 3)
            records = await mapped(server, ITEMS)
            assert outputs(records) == ["BadRequest"] * 6
            assert len(server.batches) == 1

    run(main())


def test_a_provider_that_repeats_the_key_is_not_repeated() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.key = "secret-of-mine"
            server.order(Order(fail=f"no model for Bearer {server.key}"))
            (record,) = await mapped(server, ["Q"])
            assert record.error is not None
            assert "no model for Bearer [key]" in record.error.message

    run(main())


def test_a_key_that_a_provider_repeats_is_not_written_down() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.key = "secret-of-mine"
            server.order(Order(fates={0: "500"}, says=f"no {server.key}"), Order(hold=True))
            task = asyncio.create_task(mapped(server, ITEMS))
            await server.until("POST /v1/batches", 2)
            files = b"".join(path.read_bytes() for path in RUN.iterdir())
            assert b"no [key]" in files
            assert b"secret-of-mine" not in files
            server.release()
            assert outputs(await task) == [f'said 0 to "{item}"' for item in ITEMS]

    run(main())


def test_a_provider_without_room_is_given_less_and_waited_for() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(*[Order(fail="token_limit_exceeded")] * 3)
            records = await mapped(server, [f"Q{i}" for i in range(16)])
            ended = [(batch["status"], batch["request_counts"]["total"]) for batch in server.batches]
            assert [status for status, _ in ended[:3]] == ["failed"] * 3
            assert ended[3:] == [("completed", 2), ("completed", 4), ("completed", 8), ("completed", 2)]
        assert outputs(records) == [f'said 0 to "Q{i}"' for i in range(16)]

    run(main())


def test_waves_that_find_no_room_in_the_same_moment_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        async with serving(same) as server, asyncio.timeout(30):
            server.order(*[Order(fail="token_limit_exceeded")] * 2)
            server.disturb("DELETE /v1/files/{id}", "hold-after", "hold-after")  # so that both end at once
            task = asyncio.create_task(mapped(server, ITEMS, waves=settings(most_requests=3)))
            await server.until("DELETE /v1/files/{id}", 2)
            server.let_go()
            assert outputs(await task) == [f'said 0 to "{item}"' for item in ITEMS]

    run(main())


def test_a_wave_made_smaller_for_want_of_room_is_no_tail() -> None:
    async def main() -> None:
        async with serving(same) as server, asyncio.timeout(30):
            server.order(*[Order(fail="token_limit_exceeded")] * 2)
            items = [f"Q{i}" for i in range(16)]
            records = await mapped(server, items, waves=settings(tail_live=5))  # halved twice to 4, which are not live
            assert outputs(records) == [f'said 0 to "{item}"' for item in items]
            assert draws_paid() == dict.fromkeys(items, 1)
            assert waves_sent() == [4, 8]
            assert live_paid() == 4

    run(main())


@pytest.mark.parametrize(
    ("route", "faults"),
    [
        ("POST /v1/files", ["500", "429:0.01", "drop", "drop-after"]),
        ("POST /v1/batches", ["503", "429", "drop", "drop-after"]),
        ("POST /v1/batches", ["drop-after", "drop-after"]),
        ("GET /v1/batches", ["", "500", "drop"]),
        ("GET /v1/batches/{id}", ["drop", "500", "502", "drop-after", "429", "500"]),
        (CONTENT, ["cut", "drop", "cut", "500"]),
        ("DELETE /v1/files/{id}", ["500", "drop-after"]),
    ],
)
def test_a_provider_that_fails_now_and_then_is_asked_again_and_paid_once(route: str, faults: list[str]) -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.disturb(route, *faults)
            records = await mapped(server, ITEMS)
            assert outputs(records) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert len(server.batches) == 1
            assert not server.files

    run(main())


def test_of_two_batches_for_one_wave_the_later_is_cancelled() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(hold=True), Order(hold=True))
            # Made without an answer, and not listed at first: the wave's batch is made a second time.
            server.disturb("POST /v1/batches", "drop-after")
            server.disturb("GET /v1/batches", "", "empty")
            task = asyncio.create_task(mapped(server, ITEMS))
            await server.until("POST /v1/batches/{id}/cancel")
            server.release()
            assert outputs(await task) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert len(server.batches) == 2
            assert server.batches[0]["status"] == "completed"

    run(main())


@pytest.mark.parametrize("then", ["401", "403", "400"])
def test_a_batch_that_was_made_without_an_answer_is_not_given_up_when_the_provider_refuses_us(then: str) -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.disturb("POST /v1/batches", "drop-after")
            server.disturb("GET /v1/batches", "", then)
            assert outputs(await mapped(server, ITEMS)) == [FAILURES[then]] * 6
            assert outputs(await mapped(server, ITEMS)) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert len(server.batches) == 1

    run(main())


def test_a_provider_that_is_away_is_waited_for() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(hold=True, done=3))
            task = asyncio.create_task(mapped(server, ITEMS))
            await server.until("GET /v1/batches/{id}", 3)
            await server.stop()
            refused = 0
            for _ in range(20):  # it is asked all the while
                try:
                    await asyncio.open_connection("127.0.0.1", server.port)
                except OSError:
                    refused += 1
                await asyncio.sleep(0)
            assert refused == 20
            await server.start()
            server.release()
            assert outputs(await task) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)

    run(main())


def test_files_that_are_too_large_are_sent_in_parts() -> None:
    async def main() -> None:
        async with serving(same) as server:
            records = await mapped(server, ITEMS, waves=settings(most_bytes=500))
            assert [batch["request_counts"]["total"] for batch in server.batches] == [3, 3]
            server.disturb("POST /v1/files", "413", "413")
            again = await shoal.amap(model_of(server), ITEMS, run_dir="other", batch_api=settings())
            assert len(server.batches[2:]) == 6
        assert outputs(records) == outputs(again) == [f'said 0 to "{item}"' for item in ITEMS]
        assert draws_paid() == dict.fromkeys(ITEMS, 2)  # of two runs

    run(main())


def test_many_requests_are_several_waves() -> None:
    async def main() -> None:
        async with serving(same) as server:
            await mapped(server, ITEMS, waves=settings(most_requests=4))
            assert [batch["request_counts"]["total"] for batch in server.batches] == [4, 2]

    run(main())


def test_the_tail_is_sent_live() -> None:
    @shoal.program
    async def chain(name: str, steps: int) -> str:
        for i in range(steps):
            name = await shoal.llm.generate_text(f"{i} {name}")
        return name

    async def main() -> None:
        async with serving(same) as server:
            await mapped(
                server, list(zip("abcde", [1, 1, 1, 2, 3], strict=True)), subject=chain, waves=settings(tail_live=2)
            )
            assert waves_sent() == [5]
            assert live_paid() == 3

    run(main())


def test_a_key_that_is_refused_is_one_clear_error() -> None:
    async def main() -> None:
        async with serving() as server:
            server.key, key = "other", server.key
            with pytest.raises(AuthenticationFailed):
                await shoal.amap(
                    shoal.open_model("lab/m", base_url=server.base_url, api_key=key, cache=None),
                    ITEMS,
                    run_dir=RUN,
                    batch_api=settings(),
                )
        assert [each.status for each in asked(Path("provider"))] == [401]

    run(main())


def test_a_server_without_batches_is_refused_before_anything_is_asked() -> None:
    async def main() -> None:
        async with serving() as server:
            server.disturb("GET /v1/batches", "404")
            with pytest.raises(UsageError, match="lab/m has no batch API"):
                await mapped(server, ITEMS)
            assert paid(Path("provider")) == []

    run(main())


def test_models_that_have_no_batch_api_are_refused() -> None:
    with pytest.raises(UsageError, match="needs a server that has"):
        shoal.map(shoal.open_model("local"), ITEMS, run_dir=RUN, batch_api=True)
    with pytest.raises(UsageError, match="batch_api=True needs run_dir"):
        shoal.map("local", ITEMS, batch_api=True)


def test_a_wave_cancelled_by_somebody_keeps_what_was_done_and_the_next_run_asks_the_rest() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(hold=True, done=4))
            task = asyncio.create_task(mapped(server, ITEMS))
            await server.until("GET /v1/batches/{id}", 2)
            model: Any = model_of(server)
            async with model.backend.exchange(
                "POST", f"/batches/{server.batches[0]['id']}/cancel", body=b"{}"
            ) as reply:
                assert reply.status == 200
            records = await task
            assert outputs(records)[4:] == ["ModelError"] * 2
            assert records[5].error is not None
            assert "cancelled" in records[5].error.message
            again = await mapped(server, ITEMS)
            assert outputs(again) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            await model.aclose()

    run(main())


def test_a_run_that_is_stopped_leaves_its_waves_and_collects_them_later() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.order(Order(hold=True, done=2))
            task = asyncio.create_task(mapped(server, ITEMS))
            await server.until("GET /v1/batches/{id}", 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(RunError, match="waits for 6 calls sent by the batch API; add --batch-api"):
                await shoal.amap(model_of(server), ITEMS, run_dir=RUN)
            server.release()
            records = await mapped(server, ITEMS)
            assert outputs(records) == [f'said 0 to "{item}"' for item in ITEMS]
            assert draws_paid() == dict.fromkeys(ITEMS, 1)
            assert len(server.batches) == 1
            assert records[0].usage.calls == 1

    run(main())


def test_a_budget_holds_as_it_does_live() -> None:
    async def main() -> None:
        async with serving(same) as server:
            records = await mapped(server, ITEMS, budget=Budget(calls=4))
            assert sum(draws_paid().values()) == 4
            assert outputs(records).count("BudgetExceeded") == 2

    run(main())


def test_a_server_that_gives_fewer_draws_than_asked_is_believed() -> None:
    async def main() -> None:
        async with serving(same) as server:
            model: Any = model_of(server, "self_consistency(n=4)@lab/m")
            base = model.model
            read = base.backend.read_reply
            base.backend.read_reply = lambda *reply: read(*reply)[:1]  # a server that ignores n
            records = await shoal.amap(model, ITEMS, run_dir=RUN, batch_api=settings())
            assert [record.usage.calls for record in records] == [4] * 6
            assert len(server.batches) == 2
            assert [batch["request_counts"]["total"] for batch in server.batches] == [6, 18]
            await base.aclose()

    run(main())
