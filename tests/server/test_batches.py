"""/v1/batches: requests by the file, techniques and all, asked over HTTP."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from openai import AsyncOpenAI
from tests.backends.faulty_server import faulty_server
from tests.scripting import in_turn, run
from tests.server.batching import ENDED, auth, begin, carried_out, jsonl, line, results, text_of, until, upload
from tests.server.serving import Reply, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.backends.scripted import ScriptedBackend
from shoal.batch.journal import Journal
from shoal.errors import BadRequest
from shoal.runtime.limits import Limits
from shoal.runtime.types import Request
from shoal.server.access.callers import Caller
from shoal.server.access.keys import settings_for
from shoal.server.batches.answering import Answering, Slots
from shoal.server.batches.answering import Endpoint as BatchEndpoint
from shoal.server.batches.lines import decoded
from shoal.server.endpoints.asked import Asked
from shoal.server.names import Names, open_models
from shoal.server.refusals import Refusal
from shoal.server.service import Service
from shoal.server.settings import Settings

KEYS = {name: settings_for(f"key-of-{name}") for name in ("ann", "bob")}


def served(script: Any = lambda request: f"to {request.messages[-1].text}", **settings: Any) -> Any:
    return serving({"m": scripted_model(script)}, **{"state": "state", **settings})


def test_the_sdk_carries_a_batch_from_file_to_file() -> None:
    async def main() -> None:
        async with served() as client, AsyncOpenAI(base_url=f"{client.url}/v1", api_key="any") as openai:
            lines = [line(f"r{i}", f"question {i}") for i in range(20)]
            file = await openai.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
            batch = await openai.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"for": "test"},
            )
            assert batch.status in ("validating", "in_progress")
            assert batch.expires_at == batch.created_at + 86400
            while batch.status not in ENDED:
                batch = await openai.batches.retrieve(batch.id)
            assert (batch.status, batch.model, batch.metadata) == ("completed", "m", {"for": "test"})
            assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
            assert batch.request_counts is not None
            assert batch.request_counts.to_dict() == {"total": 20, "completed": 20, "failed": 0}
            assert batch.usage is not None
            assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (40, 60, 100)
            assert batch.error_file_id is None
            assert batch.output_file_id is not None
            output = (await openai.files.content(batch.output_file_id)).text.splitlines()
            items = [json.loads(item) for item in output]
            assert [item["custom_id"] for item in items] == [f"r{i}" for i in range(20)]
            assert text_of(items[7]) == "to question 7"
            assert items[0].keys() == {"id", "custom_id", "response", "error"}
            assert items[0]["response"].keys() == {"status_code", "request_id", "body"}
            assert items[0]["id"].startswith("batch_req_")
            assert (await openai.files.retrieve(batch.output_file_id)).purpose == "batch_output"
            second = await openai.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            assert [found.id async for found in openai.batches.list(limit=1)] == [second.id, batch.id]

    run(main())


def test_lines_name_techniques_presets_and_options() -> None:
    script = in_turn("The answer is 5.", "The answer is 4.", "The answer is 4.")

    async def main() -> list[Any]:
        async with served(script) as client:
            batch = await carried_out(
                client,
                line("name", model="self_consistency(n=3)@m"),
                line("body", shoal={"technique": "self_consistency", "options": {"n": 3}}),
                line("optillm", model="re2-m"),
                line("plain"),
                line("two", n=2),
            )
            assert batch["status"] == "completed", batch
            assert batch["model"] is None
            return (await results(client, batch))[0]

    items = run(main())
    assert [text_of(item)[-2] for item in items[:2]] == ["4", "4"]
    calls = [item["response"]["body"]["shoal"]["calls"] for item in items]
    assert calls == [3, 3, 1, 1, 2]
    assert len(items[4]["response"]["body"]["choices"]) == 2


@pytest.mark.parametrize(
    ("url", "body", "answer"),
    [
        ("/v1/completions", {"prompt": ["Once", "Twice"]}, lambda body: [choice["text"] for choice in body["choices"]]),
        ("/v1/responses", {"input": "Once"}, lambda body: [body["output"][0]["content"][0]["text"]]),
    ],
)
@pytest.mark.parametrize("model", ["m", "re2@m", "up/m"])
def test_other_endpoints_bodies_are_answered_too(url: str, body: dict[str, Any], answer: Any, model: str) -> None:
    async def main() -> tuple[Any, list[Any]]:
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving({"m": scripted_model(lambda request: "x"), **models}, state="state") as client:
                asked = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": model, **body}}
                batch = await carried_out(client, asked, endpoint=url)
                return batch, (await results(client, batch))[0]

    batch, (item,) = run(main())
    answers = answer(item["response"]["body"])
    assert len(answers) == len(body.get("prompt", [0]))
    assert all("x" in text or text.startswith("answer") for text in answers)
    assert batch["usage"]["total_tokens"] > 0
    assert batch["usage"]["input_tokens"] > 0


def test_what_fails_is_told_line_by_line_and_the_rest_is_answered() -> None:
    def script(request: Request) -> str:
        if "bad" in request.messages[-1].text:
            raise BadRequest("no such thing", status=400)
        if "fault" in request.messages[-1].text:
            raise RuntimeError("a fault of our own")
        return "fine"

    async def main() -> tuple[Any, ...]:
        async with served(script) as client:
            batch = await carried_out(
                client,
                line("a"),
                line("b", "bad"),
                line("c", model="rstar(rollouts=1000)@m"),
                line("d", temperature="hot"),
                line("e"),
                line("f", "fault"),
            )
            return batch, *(await results(client, batch))

    batch, output, errors = run(main())
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 6, "completed": 2, "failed": 4})
    assert [item["custom_id"] for item in output] == ["a", "e"]
    assert [item["custom_id"] for item in errors] == ["b", "c", "d", "f"]
    assert [item["response"]["status_code"] for item in errors] == [400, 400, 400, 502]
    assert [item["error"] for item in errors] == [None] * 4
    assert errors[1]["response"]["body"]["error"]["code"] == "budget_exceeded"
    assert errors[2]["response"]["body"]["error"]["param"] == "temperature"


HUGE = b'{"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"x": "' + b"y" * 2000 + b'"}}\n'
GOOD = jsonl(line("a"))


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (b"", [("empty_file", None)]),
        (b" \r\n\n\xef\xbb\xbf", [("invalid_json_line", 3)]),
        (b"\n \r\n", [("empty_file", None)]),
        (
            GOOD + b"{not json}\n" + b"[]\n3\n",
            [("invalid_json_line", 2), ("invalid_request", 3), ("invalid_request", 4)],
        ),
        (bytes(range(256)) * 4, [("invalid_json_line", n) for n in range(1, 6)]),
        (GOOD + b'{"custom_id": "\xff"}\n', [("invalid_json_line", 2)]),
        (GOOD + b"[" * 100_000, [("line_too_long", 2)]),
        (GOOD + b'{"custom_id": "b", "body": {"x": ' + b"[" * 1200, [("invalid_json_line", 2)]),
        (GOOD + b"\n" + GOOD, [("duplicate_custom_id", 3)]),
        (GOOD + HUGE + jsonl(line("c"), line("a")), [("line_too_long", 2), ("duplicate_custom_id", 4)]),
        (jsonl({**line("a"), "url": "/v1/completions"}), [("invalid_url", 1)]),
        (jsonl({**line("a"), "method": "GET"}), [("invalid_method", 1)]),
        (jsonl({**line("a"), "custom_id": ""}), [("invalid_request", 1)]),
        (jsonl({"custom_id": "a"}), [("invalid_request", 1)]),
        (jsonl({**line("a"), "body": "text"}), [("invalid_request", 1)]),
        (jsonl(line("a", stream=True)), [("invalid_request", 1)]),
        (jsonl(line("a"), line("b", model="nobody")), [("model_not_found", 2)]),
        (jsonl(line("a", model="gguf//etc/passwd")), [("model_not_found", 1)]),
        (jsonl(line("a", model="nobody@m")), [("invalid_request", 1)]),
    ],
)
def test_a_bad_input_file_fails_before_anything_is_spent(data: bytes, faults: list[tuple[str, int | None]]) -> None:
    model = scripted_model(lambda request: "x")

    async def main() -> Any:
        async with serving({"m": model}, state="state", max_body=1500) as client:
            return await carried_out(client, data)

    batch = run(main())
    assert batch["status"] == "failed"
    assert [(fault["code"], fault["line"]) for fault in batch["errors"]["data"]] == faults
    assert batch["failed_at"]
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)
    assert model.backend.requests == []  # type: ignore[attr-defined]


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_taken() -> None:
    async def main() -> list[Any]:
        async with served() as client:
            data = b"\xef\xbb\xbf" + jsonl(line("a"), line("b")).replace(b"\n", b"\r\n\r\n").rstrip()
            return (await results(client, await carried_out(client, data)))[0]

    assert [item["custom_id"] for item in run(main())] == ["a", "b"]


def test_too_many_lines_are_refused() -> None:
    async def main() -> Any:
        async with served() as client:
            return await carried_out(client, jsonl(*(line(str(i), "") for i in range(50_001))))

    batch = run(main())
    assert [(fault["code"], fault["line"]) for fault in batch["errors"]["data"]] == [("too_many_lines", 50_001)]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"endpoint": "/etc/passwd"}, 400, "endpoint"),
        ({"completion_window": "forever"}, 400, "completion_window"),
        ({"completion_window": "31d"}, 400, "completion_window"),
        ({"input_file_id": "file-x"}, 404, "input_file_id"),
        ({"input_file_id": 3}, 400, "input_file_id"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata[...]"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 400, "output_expires_after"),
    ],
)
def test_bad_batches_are_refused(change: dict[str, Any], status: int, param: str) -> None:
    async def main() -> Reply:
        async with served() as client:
            id_ = (await upload(client, GOOD)).json["id"]
            asked = {"input_file_id": id_, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            return await client.post("/v1/batches", {**asked, **change})

    reply = run(main())
    assert (reply.status, reply.error["param"]) == (status, param), reply.text


@pytest.mark.parametrize("model", ["up/m", "self_consistency(n=3)@up/m"])
def test_cancelling_stops_what_is_under_way_upstream_and_keeps_what_is_finished(model: str) -> None:
    async def main() -> tuple[Any, ...]:
        async with faulty_server() as upstream:
            models = open_models([model.partition("@")[2] or model], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving(models, state="state") as client:
                lines = [
                    line("done", model=model),
                    *(line(f"s{i}", "[[stall-before-headers]]", model) for i in range(5)),
                ]
                batch = await begin(client, *lines)
                while True:
                    batch = (await client.get(f"/v1/batches/{batch['id']}")).json
                    if batch["request_counts"]["completed"] == 1:
                        break
                await upstream.got(6)
                began = asyncio.get_running_loop().time()
                cancelled = await client.post(f"/v1/batches/{batch['id']}/cancel", b"")
                await upstream.hung_up(5)
                assert asyncio.get_running_loop().time() - began < 1
                assert cancelled.json["status"] == "cancelling"
                ended = await until(client, batch["id"], *ENDED)
                again = await client.post(f"/v1/batches/{batch['id']}/cancel", b"")
                return ended, again, *(await results(client, ended))

    batch, again, output, errors = run(main())
    assert (batch["status"], again.json["status"]) == ("cancelled", "cancelled")
    assert None not in (batch["cancelling_at"], batch["cancelled_at"])
    assert batch["request_counts"] == {"total": 6, "completed": 1, "failed": 0}
    assert [item["custom_id"] for item in output] == ["done"]
    assert [item["custom_id"] for item in errors] == [f"s{i}" for i in range(5)]
    assert {item["error"]["code"] for item in errors} == {"batch_cancelled"}
    assert {item["response"] for item in errors} == {None}


def test_what_has_ended_cannot_be_cancelled() -> None:
    async def main() -> Reply:
        async with served() as client:
            batch = await carried_out(client, line("a"))
            return await client.post(f"/v1/batches/{batch['id']}/cancel", b"")

    reply = run(main())
    assert (reply.status, reply.error["code"]) == (400, "batch_not_cancellable")


def test_what_is_not_answered_in_time_is_told_so() -> None:
    forever = asyncio.Event()

    async def script(request: Request) -> str:
        if request.messages[-1].text == "slow":
            await forever.wait()
        return "quick"

    async def main() -> tuple[Any, ...]:
        async with served(script) as client:
            batch = await carried_out(client, line("a"), line("b", "slow"), line("c"), completion_window="5s")
            return batch, *(await results(client, batch))

    batch, output, errors = run(main())
    assert (batch["status"], bool(batch["expired_at"])) == ("expired", True)
    assert [item["custom_id"] for item in output] == ["a", "c"]
    assert [(item["custom_id"], item["error"]["code"]) for item in errors] == [("b", "batch_expired")]


def test_another_keys_batches_are_not_there() -> None:
    async def main() -> tuple[list[int], list[Any]]:
        async with served(keys=KEYS) as client:
            batch = await carried_out(client, line("a"), key="key-of-ann")
            bob = auth("key-of-bob")
            replies = [
                await client.get(f"/v1/batches/{batch['id']}", headers=bob),
                await client.post(f"/v1/batches/{batch['id']}/cancel", b"", headers=bob),
                await client.get(f"/v1/files/{batch['output_file_id']}/content", headers=bob),
                await client.get(f"/v1/files/{batch['input_file_id']}", headers=bob),
            ]
            listed = (await client.get(f"/v1/batches?after={batch['id']}", headers=bob)).json["data"]
            return [reply.status for reply in replies], listed

    assert run(main()) == ([404] * 4, [])


def test_a_key_gets_no_model_or_technique_by_a_batch_that_it_does_not_cover() -> None:
    keys = {"ann": structs.replace(KEYS["ann"], models=("m",), techniques=("self_consistency",))}

    async def main() -> Any:
        models = {name: scripted_model(lambda request: "x", name=name) for name in ("m", "other")}
        async with serving(models, state="state", keys=keys) as client:
            lines = [line("a", model="self_consistency@m"), line("b", model="other"), line("c", model="moa@m")]
            return await carried_out(client, *lines, key="key-of-ann")

    batch = run(main())
    assert batch["status"] == "failed"
    codes = [(fault["line"], fault["code"]) for fault in batch["errors"]["data"]]
    assert codes == [(2, "model_not_allowed"), (3, "technique_not_allowed")]


def test_the_input_of_a_batch_under_way_cannot_be_deleted() -> None:
    go = asyncio.Event()

    async def script(request: Request) -> str:
        await go.wait()
        return "x"

    async def main() -> list[int]:
        async with served(script) as client:
            batch = await begin(client, line("a"))
            url = f"{client.url}/v1/files/{batch['input_file_id']}"
            async with client.session.delete(url) as response:
                statuses = [response.status]
            go.set()
            await until(client, batch["id"], "completed")
            async with client.session.delete(url) as response:
                return [*statuses, response.status]

    assert run(main()) == [400, 200]


def test_live_requests_are_served_before_the_lines_of_a_batch() -> None:
    order: list[str] = []
    under_way = asyncio.Event()
    turns = asyncio.Semaphore(0)

    async def script(request: Request) -> str:
        order.append(request.messages[-1].text)
        under_way.set()
        await turns.acquire()
        return "x"

    async def main() -> None:
        base = BaseModel(ScriptedBackend(script), limits=Limits(max_in_flight=1))
        async with serving({"m": base}, state="state") as client:
            batch = await begin(client, *(line(f"r{i}", "line") for i in range(10)))
            await under_way.wait()
            while base.scheduler.waiting < 9:
                await asyncio.sleep(0)
            live = asyncio.ensure_future(client.chat("re2@m", "live"))
            while base.scheduler.waiting < 10:
                await asyncio.sleep(0)
            for _ in range(11):
                turns.release()
            assert (await live).status == 200
            await until(client, batch["id"], "completed")

    run(main())
    assert len(order) == 11
    assert "live" in order[1]


def test_a_keys_batches_leave_one_of_its_requests_at_once_for_live_use() -> None:
    under_way: list[int] = [0]
    most: list[int] = []

    async def script(request: Request) -> str:
        under_way[0] += 1
        most.append(under_way[0])
        for _ in range(5):
            await asyncio.sleep(0)
        under_way[0] -= 1
        return "x"

    async def main() -> list[str]:
        keys = {"ann": structs.replace(KEYS["ann"], max_in_flight=4)}
        async with served(script, keys=keys) as client:
            batches = [await begin(client, *(line(f"r{i}") for i in range(20)), key="key-of-ann") for _ in range(2)]
            return [(await until(client, batch["id"], *ENDED, key="key-of-ann"))["status"] for batch in batches]

    assert run(main()) == ["completed", "completed"]
    assert max(most) == 3


def test_a_line_that_its_key_holds_back_waits_and_is_answered() -> None:
    refusals = [Refusal(429, "later", retry_after=0.01) for _ in range(10)]

    async def answer(asked: Asked) -> bytes:
        if refusals:
            raise refusals.pop()
        return b"{}"

    async def main() -> list[tuple[int, bytes]]:
        service = Service(Settings(), Names({"m": scripted_model(lambda request: "x")}, {}))
        journal = Journal(Path("journal.sqlite"))
        caller = Caller("ann", None)
        answering = Answering("batch_x", BatchEndpoint(Asked, answer), service, caller, journal, Slots(2))
        asked = decoded(json.dumps(line("a")).encode())
        try:
            return await asyncio.gather(*(answering.line(i, asked) for i in range(5)))
        finally:
            journal.close()

    assert run(main()) == [(200, b"{}")] * 5
    assert refusals == []


def test_equal_lines_are_independent_draws() -> None:
    async def main() -> list[Any]:
        seen: list[Request] = []

        def script(request: Request) -> str:
            seen.append(request)
            return str(len(seen))

        async with served(script) as client:
            batch = await carried_out(client, *(line(f"r{i}", "same") for i in range(5)))
            return (await results(client, batch))[0]

    assert sorted(text_of(item) for item in run(main())) == ["1", "2", "3", "4", "5"]


def test_a_server_that_stops_leaves_a_batch_that_the_next_goes_on_with() -> None:
    asked: list[str] = []
    waiting = asyncio.Event()

    async def script(request: Request) -> str:
        asked.append(request.messages[-1].text)
        if len(asked) > 6:
            waiting.set()
            await asyncio.Event().wait()
        return "x"

    async def first() -> str:
        async with served(script) as client:
            batch = await begin(client, *(line(f"r{i}", str(i)) for i in range(10)))
            await waiting.wait()
            while (await client.get(f"/v1/batches/{batch['id']}")).json["request_counts"]["completed"] < 6:
                pass
            return str(batch["id"])

    async def second(id_: str) -> list[Any]:
        async with served(lambda request: asked.append(request.messages[-1].text) or "y") as client:
            batch = await until(client, id_, "completed")
            assert batch["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
            return (await results(client, batch))[0]

    items = run(second(run(first())))
    assert [text_of(item) for item in items] == ["x"] * 6 + ["y"] * 4
    assert [item["custom_id"] for item in items] == [f"r{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("place", "code"), [("state/files/*", "input_file_missing"), ("state/batches/*.sqlite", "journal_damaged")]
)
def test_a_batch_whose_files_are_spoilt_fails_and_the_server_goes_on(place: str, code: str) -> None:
    begun = asyncio.Event()

    async def hang(request: Request) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def first() -> str:
        async with served(hang) as client:
            batch = await begin(client, line("a"))
            await begun.wait()
            return str(batch["id"])

    async def second(id_: str) -> tuple[Any, int]:
        async with served() as client:
            return await until(client, id_, *ENDED), (await client.chat("m")).status

    id_ = run(first())
    (path,) = Path().glob(place)
    path.write_bytes(b"nonsense " * 1000)
    if code == "input_file_missing":
        path.unlink()
    batch, status = run(second(id_))
    assert (batch["status"], batch["errors"]["data"][0]["code"], status) == ("failed", code, 200)


def test_a_batch_waits_while_its_key_is_not_configured() -> None:
    async def hang(request: Request) -> str:
        await asyncio.Event().wait()
        return ""

    async def begun() -> str:
        async with served(hang, keys=KEYS) as client:
            return str((await begin(client, line("a"), key="key-of-ann"))["id"])

    async def without() -> int:
        async with served(keys={"bob": KEYS["bob"]}) as client:
            return (await client.get("/v1/batches", headers=auth("key-of-bob"))).status

    async def with_key(id_: str) -> Any:
        async with served(keys=KEYS) as client:
            return await until(client, id_, *ENDED, key="key-of-ann")

    id_ = run(begun())
    assert run(without()) == 200
    assert run(with_key(id_))["status"] == "completed"
