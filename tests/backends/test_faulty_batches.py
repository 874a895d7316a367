"""The loopback batch server does what tests rely on: statuses, files, faults, its ledger, and coming back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.backends.batches_process import BatchesProcess
from tests.backends.faulty_batches import ENDED, FaultyBatches, Order, asked, paid
from tests.scripting import run

CONTENT = "GET /v1/files/{id}/content"


def line(i: int, text: str = "", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"{text} {i}?"}]}
    return {"custom_id": f"c{i}", "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}


def said(body: dict[str, Any], choice: int) -> str:
    return f"said to {body['messages'][0]['content'].split()[-1]}"


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[FaultyBatches, openai.AsyncOpenAI]]:
    server = FaultyBatches(directory, said)
    await server.start()
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        yield server, client
    await server.stop()


async def begin(client: openai.AsyncOpenAI, *lines: Any) -> Any:
    data = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines).encode()
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "r"}
    )


async def ended(client: openai.AsyncOpenAI, id_: str) -> Any:
    while (batch := await client.batches.retrieve(id_)).status not in ENDED:
        pass
    return batch


async def lines_of(client: openai.AsyncOpenAI, file: str | None) -> list[str]:
    return (await client.files.content(file)).text.splitlines() if file else []


def test_a_batch_goes_through_its_statuses_and_its_lines_are_paid_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (server, client):
            server.order(Order(reorder=1))
            batch = await begin(client, *map(line, range(9)))
            seen = [batch.status] + [(await client.batches.retrieve(batch.id)).status for _ in range(4)]
            assert seen == ["validating", "in_progress", "finalizing", "completed", "completed"]
            batch = await client.batches.retrieve(batch.id)
            answers = [json.loads(each) for each in await lines_of(client, batch.output_file_id)]
            ids = [answer["custom_id"] for answer in answers]
            assert sorted(ids) == [f"c{i}" for i in range(9)] != ids
            for answer in answers:
                content = answer["response"]["body"]["choices"][0]["message"]["content"]
                assert content == f"said to {answer['custom_id'][1:]}?"
            assert (batch.request_counts.completed, batch.error_file_id, batch.metadata) == (9, None, {"run": "r"})
            assert [each.custom_id for each in paid(tmp_path)] == [f"c{i}" for i in range(9)]
            for _ in range(4):
                await begin(client, line(0))
            listed = [each.id async for each in client.batches.list(limit=2)]
            assert len(set(listed)) == 5
            assert listed[-1] == batch.id

    run(main())


def test_lines_meet_the_fate_that_is_ordered_or_marked(tmp_path: Path) -> None:
    fates = {1: "429", 2: "left-out", 3: "lost", 4: "malformed", 5: "twice", 6: "unknown-id"}

    async def main() -> None:
        async with served(tmp_path) as (server, client):
            server.order(Order(fates=fates))
            marked = line(7, "[[500*1]]")
            batch = await ended(client, (await begin(client, *map(line, range(7)), marked)).id)
            output = await lines_of(client, batch.output_file_id)
            ids = [json.loads(each)["custom_id"] if each[-1] == "}" else "?" for each in output]
            assert ids == ["c0", "?", "c5", "c5", "nobody-sent-this"]
            errors = [json.loads(each) for each in await lines_of(client, batch.error_file_id)]
            assert [(e["custom_id"], e["response"]["status_code"]) for e in errors] == [("c1", 429), ("c7", 500)]
            assert [each.custom_id for each in paid(tmp_path)] == ["c0", "c3", "c4", "c5", "c6"]
            again = await ended(client, (await begin(client, marked)).id)
            assert again.output_file_id
            assert not again.error_file_id

    run(main())


@pytest.mark.parametrize(
    ("lines", "order", "codes"),
    [
        ([line(0), line(0)], Order(), [("duplicate_custom_id", 2)]),
        ([line(0), "{oops", line(1, url="/v1/embeddings")], Order(), [("invalid_json_line", 2), ("invalid_url", 3)]),
        ([line(0, body={"model": "a"}), line(1)], Order(), [("mismatched_model", 2)]),
        ([line(0), line(1)], Order(fates={1: "invalid"}), [("invalid_request", 2)]),
        ([line(0)], Order(fail="token_limit_exceeded"), [("token_limit_exceeded", None)]),
        ([], Order(), [("empty_file", None)]),
    ],
)
def test_a_batch_that_fails_its_checks_is_not_paid(tmp_path: Path, lines: Any, order: Order, codes: Any) -> None:
    async def main() -> None:
        async with served(tmp_path) as (server, client):
            server.order(order)
            batch = await ended(client, (await begin(client, *lines)).id)
            assert batch.status == "failed"
            assert [(each.code, each.line) for each in batch.errors.data] == codes
            assert not paid(tmp_path)

    run(main())


def test_expired_and_cancelled_batches_keep_what_was_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (server, client):
            server.order(Order(expire_after=2), Order(hold=True, done=1), Order(hold=True))
            expired = await ended(client, (await begin(client, *map(line, range(4)))).id)
            held = await begin(client, *map(line, range(3)))
            for _ in range(3):
                status = (await client.batches.retrieve(held.id)).status
            assert status == "in_progress"
            assert (await client.batches.cancel(held.id)).status == "cancelling"
            cancelled = await ended(client, held.id)
            with pytest.raises(openai.ConflictError):
                await client.batches.cancel(held.id)
            for batch, done, left, code in ((expired, 2, 2, "batch_expired"), (cancelled, 1, 2, "batch_cancelled")):
                assert batch.status in code
                assert len(await lines_of(client, batch.output_file_id)) == done
                errors = [json.loads(each)["error"]["code"] for each in await lines_of(client, batch.error_file_id)]
                assert errors == [code] * left
            assert len(paid(tmp_path)) == 3
            released = await begin(client, line(0))
            server.release()
            assert (await ended(client, released.id)).status == "completed"

    run(main())


def test_requests_by_http_are_disturbed_as_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (server, client):
            server.disturb("POST /v1/files", "413", "429:1.5", "500", "drop")
            for kind in (openai.APIStatusError, openai.RateLimitError, openai.InternalServerError):
                with pytest.raises(kind) as failed:
                    await begin(client, line(0))
                if kind is openai.RateLimitError:
                    assert failed.value.response.headers["retry-after"] == "1.5"
            with pytest.raises(openai.APIConnectionError):
                await begin(client, line(0))
            server.disturb("POST /v1/batches", "drop-after")
            with pytest.raises(openai.APIConnectionError):
                await begin(client, line(0))
            [batch] = [each async for each in client.batches.list()]
            output = (await ended(client, batch.id)).output_file_id
            server.disturb(CONTENT, "cut")
            with pytest.raises(openai.APIConnectionError):
                await lines_of(client, output)
            assert len(await lines_of(client, output)) == 1
            server.disturb("POST /v1/batches", "hold-after")
            waiting = asyncio.ensure_future(begin(client, line(0)))
            await server.until("POST /v1/batches", 2)
            assert not waiting.done()
            assert len(server.batches) == 2
            server.let_go()
            assert (await waiting).id == server.batches[1]["id"]
            server.key = "another"
            with pytest.raises(openai.AuthenticationError):
                await client.batches.retrieve(batch.id)
            assert [each.status for each in asked(tmp_path) if each.route == "POST /v1/files"][:4] == [413, 429, 500, 0]

    run(main())


def test_it_comes_back_on_its_port_with_its_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (server, client):
            server.order(Order(hold=True, done=1))
            batch = await begin(client, *map(line, range(3)))
            await client.batches.retrieve(batch.id)
            await server.stop()
            with pytest.raises(openai.APIConnectionError):
                await client.batches.retrieve(batch.id)
            other = FaultyBatches(tmp_path, said)
            await other.start(server.port)
            assert (await client.batches.retrieve(batch.id)).status == "in_progress"
            other.release()
            assert (await ended(client, batch.id)).request_counts.completed == 3
            assert len(paid(tmp_path)) == 3
            live = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x 5"}])
            assert live.choices[0].message.content == "said to 5"
            assert [each.batch for each in paid(tmp_path)] == [batch.id] * 3 + [None]
            await other.stop()

    run(main())


def test_in_a_process_of_its_own_it_dies_and_goes_on(tmp_path: Path) -> None:
    server = BatchesProcess(tmp_path)

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
            server.do("order", Order(hold=True, done=2))
            server.do("disturb", "POST /v1/batches", "die-after")
            with pytest.raises(openai.APIConnectionError):
                await begin(client, *map(line, range(4)))
            assert server.died() == 9
            server.start()
            [batch] = [each async for each in client.batches.list()]
            await client.batches.retrieve(batch.id)
            assert len(paid(tmp_path)) == 2
            server.kill()
            server.start()
            server.do("release")
            assert (await ended(client, batch.id)).status == "completed"
            assert [each.custom_id for each in paid(tmp_path)] == ["c0", "c1", "c2", "c3"]

    server.start()
    try:
        run(main())
    finally:
        server.kill()
