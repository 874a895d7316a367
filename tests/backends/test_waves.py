"""The parts of waves: what is read from a provider is read with care, and what is left behind is found again."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec import structs
from tests.backends.faulty_batches import Order, asked, paid
from tests.batch.waving import QUICK, draws_paid, mapped, model_of, outputs, same, settings
from tests.batch.waving import serving as failing
from tests.scripting import run
from tests.server.serving import running, scripted_model, serving

import shoal
from shoal.backends import BaseModel, open_base
from shoal.backends.config import Config
from shoal.backends.openai import OpenAIBackend
from shoal.backends.waves import WaveScheduler, WaveSettings, WaveStore
from shoal.backends.waves.api import BatchApi
from shoal.backends.waves.gathering import Gathering
from shoal.backends.waves.lines import (
    Joined,
    Line,
    custom_id,
    drawn,
    draws_of,
    failure,
    read_line,
    request_line,
    together,
)
from shoal.backends.waves.settings import Pace
from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    UsageError,
)
from shoal.evaluation.scorers import open_scorer
from shoal.runtime.backend import Draws
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Request, SamplingParams


def test_a_request_is_named_by_its_draws_and_its_body_is_that_of_a_live_call() -> None:
    keys = [b"one", b"two"]
    assert custom_id(keys) == custom_id(list(keys)) != custom_id(keys[::-1])
    backend = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1")
    draws = Draws(Request.of("Q?", temperature=0.5, max_tokens=9), 2, ((0,), (1,)))
    line = json.loads(request_line("c", "/v1/chat/completions", backend.wire_body(draws)))
    assert line == {
        "custom_id": "c",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "user", "content": "Q?"}],
            "temperature": 0.5,
            "max_tokens": 9,
            "n": 2,
        },
    }


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"[]", b"oops", b'{"custom_id": 5, "response": null}', b'{"response": {"status_code": 200}}'),
        *(b'{"custom_id": "c"}', b'{"custom_id": "c", "response": null, "error": null}', b"[" * 100_000),
        b'{"custom_id": "c", "response": {"status_code": "200", "body": {}}}',
    ],
)
def test_lines_that_are_none_are_passed_over(line: bytes) -> None:
    assert read_line(line) is None


@pytest.mark.parametrize(
    ("line", "kind", "retryable"),
    [
        ({"response": {"status_code": 429, "body": {"error": {"message": "slow"}}}}, RateLimited, True),
        ({"response": {"status_code": 500, "body": None}}, ServerError, True),
        ({"response": {"status_code": 400, "body": {"error": {"message": "no"}}}}, BadRequest, False),
        ({"response": {"status_code": 401, "body": {}}}, AuthenticationFailed, False),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, DeadlineExceeded, True),
        ({"response": None, "error": {"code": "batch_cancelled", "message": "x"}}, ModelError, False),
        ({"error": {"code": "server_error", "message": "x"}}, ServerError, True),
        ({"error": {"code": None, "message": None}}, MalformedResponse, True),
    ],
)
def test_what_a_line_without_an_answer_means(line: dict[str, Any], kind: type[ModelError], retryable: bool) -> None:
    read = read_line(json.dumps({"custom_id": "c", **line}).encode())
    assert read is not None
    assert not drawn(read[1])
    error = failure(read[1], OpenAIBackend("m", base_url="http://127.0.0.1:9/v1").server)
    assert (type(error), error.retryable) == (kind, retryable)


def configure(base_url: str, key: str) -> None:
    Path("shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{base_url}"\napi_key = "{key}"\n')


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[BatchApi]:
    """The batch API of a server that answers everything in one way."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with running(app) as client:
        backend = OpenAIBackend("m", base_url=client.url + "/v1", api_key="sk-of-mine-alone")
        yield BatchApi(backend)
        await backend.aclose()


@pytest.mark.parametrize("id_", ["../../admin", "a/b", "..", "a?b", "a b", "", "x" * 1001, "é"])
def test_an_id_that_would_lead_elsewhere_is_refused(id_: str) -> None:
    Path("in.jsonl").write_text("{}\n")

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"id": id_, "status": "completed"})

    async def main() -> None:
        async with answering(handler) as api:
            with pytest.raises(MalformedResponse, match="an id that is none"):
                await api.batch("batch_1")
            with pytest.raises(MalformedResponse, match="an id that is none"):
                await api.upload(Path("in.jsonl"), "in.jsonl")

    run(main())


def test_pages_are_read_until_the_wave_is_found_and_not_for_ever() -> None:
    pages: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        pages.append(request.query.get("after", ""))
        at = len(pages)
        mine = {"metadata": {"shoal_wave": "w"}} if at == 3 else {"metadata": None}
        data = [{"id": f"b{at}", "created_at": 1000 + (5 - at) * 100_000, **mine}]
        return web.json_response({"data": data, "has_more": True})

    async def main() -> None:
        async with answering(handler) as api:
            (found,) = await api.of_wave("w", None, since=200_000)
            assert found.id == "b3"
            assert pages == ["", "b1", "b2", "b3"]  # the fourth is a day older than the wave

    run(main())


def test_the_key_is_in_no_error() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": f"no {request.headers['authorization']}"}}, status=401)

    async def main() -> None:
        async with answering(handler) as api:
            with pytest.raises(AuthenticationFailed) as caught:
                await api.offered()
            assert "sk-of-mine" not in str(caught.value)

    run(main())


def waves_over(base: BaseModel, directory: Path) -> tuple[WaveScheduler, WaveStore]:
    store = WaveStore(directory)
    assert isinstance(base.backend, OpenAIBackend)
    live: Any = base.scheduler
    return WaveScheduler(base.backend, live, store, settings()), store


def test_a_file_that_was_uploaded_for_nothing_is_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving({"m": scripted_model(lambda _: "x")}, state=tmp_path / "state") as client:
            base = open_base("lab/m", Config(), base_url=client.url + "/v1")
            scheduler, store = waves_over(base, tmp_path / "run")
            wave = store.new("w1", base.backend.identity, "lab/m", "/v1/chat/completions")
            wave = await store.begin(wave, [Line([b"key"], Draws(Request.of("Q?")))])
            path = tmp_path / wave.file_name
            path.write_text("{}\n")
            assert isinstance(base.backend, OpenAIBackend)
            await BatchApi(base.backend).upload(path, wave.file_name)
            assert len((await client.get("/v1/files")).json["data"]) == 1
            await scheduler.waves.begin()
            assert (await client.get("/v1/files")).json["data"] == []
            assert store.wave(wave.number).state == "dropped"
            assert store.find(b"key") is None
            await base.aclose()
            store.close()

    run(main())


def test_a_judge_at_the_same_endpoint_travels_too_and_one_elsewhere_is_asked_live() -> None:
    def says(body: dict[str, Any], choice: int) -> str:
        return "Rating: 8" if body["model"] == "judge" else "an answer"

    async def main() -> None:
        async with failing(says) as server:
            configure(server.base_url, server.key)
            scorer = open_scorer("judge(model=lab/judge)")
            records = await mapped(server, ["a", "b"], score=scorer)
            assert [record.error for record in records] == [None, None]
            assert {each.body["model"] for each in paid(Path("provider")) if each.batch} == {"m", "judge"}
            assert all(each.batch for each in paid(Path("provider")))

            configure(server.base_url.replace("127.0.0.1", "localhost"), server.key)
            model = shoal.open_model("lab/other", base_url=server.base_url, api_key=server.key, cache=None)
            await shoal.amap(
                model, ["a"], run_dir="second", batch_api=settings(), score=open_scorer("judge(model=lab/judge2)")
            )
            others = {each.body["model"]: each.batch for each in paid(Path("provider"))}
            assert others["other"] is not None
            assert others["judge2"] is None

    run(main())


@pytest.mark.parametrize("route", ["GET /v1/batches/{id}", "GET /v1/files/{id}/content"])
def test_a_wave_that_the_provider_no_longer_knows_is_no_reason_to_pay_again_unasked(route: str) -> None:
    async def main() -> None:
        async with failing(same) as server:
            server.disturb(route, "404")
            (record,) = await mapped(server, ["Q"])
            assert record.error is not None
            assert "is gone for good, `shoal waves run --forget` has its calls made anew" in record.error.message
            assert len(server.batches) == 1
            (record,) = await mapped(server, ["Q"])
            assert outputs([record]) == ['said 0 to "Q"']
            assert len(server.batches) == 1

    run(main())


def test_a_bare_prompt_and_a_conversation_are_two_waves_of_two_endpoints() -> None:
    async def main() -> None:
        async with failing() as server:
            model = shoal.open_model("lab/m", base_url=server.base_url, api_key=server.key, cache=None)
            scheduler, store = waves_over(model, Path("run"))  # type: ignore[arg-type]
            chat, text = await asyncio.gather(scheduler(Request.of("Q?")), scheduler(Request(prompt="Once")))
            assert chat.text != text.text
            assert [wave.endpoint for wave in store.waves()] == ["/v1/chat/completions", "/v1/completions"]
            await scheduler.waves.come_in()
            assert scheduler.standing() == "no wave out"
            await scheduler.waves.leave()
            store.close()
            await model.aclose()  # type: ignore[union-attr]

    run(main())


def test_a_wave_leaves_when_nobody_comes_any_more() -> None:
    async def main() -> None:
        left: list[list[Line]] = []
        gone = asyncio.Event()

        def depart(lines: list[Line]) -> None:
            left.append(lines)
            gone.set()

        gathering = Gathering(depart, lambda: False, WaveSettings(pace=Pace(alone=0.0), most_requests=5))
        lines = [Line([b"%d" % i], None) for i in range(8)]
        gathering.add(lines[0])
        await asyncio.sleep(0)
        gathering.add(lines[1])  # a few turns later than the first
        assert gathering.leave(lines[0])
        assert not gathering.leave(lines[0])
        await gone.wait()
        assert left == [[lines[1]]]
        for line in lines[2:7]:
            gathering.add(line)
        assert left[1:] == [lines[2:7]]  # as many as one may hold leave at once
        gathering.no_room(5, others=True)
        for line in lines:
            gathering.add(line)
        assert len(left) == 2  # held until a wave that is out has ended
        gone.clear()
        gathering.wave_ended()
        await gone.wait()
        assert [len(part) for part in left[2:]] in ([5], [5, 3])

    run(main())


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="rows must be at least 1"):
        WaveSettings(rows=0)
    with pytest.raises(UsageError, match="tail_live must be at least 0"):
        WaveSettings(tail_live=-1)


def test_the_first_contact_is_not_tried_for_ever() -> None:
    async def main() -> None:
        async with failing() as server:
            server.disturb("GET /v1/batches", *["500"] * 5)
            with pytest.raises(ServerError):
                await mapped(server, ["Q"])
            assert [each.route for each in asked(Path("provider"))] == ["GET /v1/batches"] * 5

    run(main())


@asynccontextmanager
async def being_written(server: Any) -> AsyncIterator[tuple[WaveScheduler, asyncio.Task[Any], sqlite3.Connection]]:
    """A draw whose wave is being written down, as long as the connection to the run's waves holds its transaction."""
    model = model_of(server)
    assert isinstance(model, BaseModel)
    scheduler, store = waves_over(model, Path("run"))
    somebody = sqlite3.connect(store.store.path, isolation_level=None)
    somebody.execute("BEGIN IMMEDIATE")
    first = asyncio.create_task(scheduler(Request.of("Q")))
    while not scheduler.waves.sending:
        await asyncio.sleep(0)
    try:
        yield scheduler, first, somebody
    finally:
        somebody.close()
        await scheduler.waves.leave()
        store.close()
        await model.aclose()


def test_a_draw_given_up_and_asked_again_while_its_wave_is_being_written_is_paid_once() -> None:
    async def main() -> None:
        async with failing(same) as server, being_written(server) as (scheduler, first, somebody):
            first.cancel()
            await asyncio.wait([first])
            again = asyncio.create_task(scheduler(Request.of("Q")))
            while scheduler.wire_requests < 2:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            somebody.execute("COMMIT")
            assert (await again).text == 'said 0 to "Q"'
            assert draws_paid() == {"Q": 1}

    run(main())


def test_a_run_that_is_told_to_stop_while_a_wave_is_being_written_does_not_wait_for_it() -> None:
    async def main() -> None:
        async with failing(same) as server, being_written(server) as (scheduler, first, somebody):
            scheduler.refuse_waiting(BudgetExceeded("the run was interrupted"))
            with pytest.raises(BudgetExceeded):
                async with asyncio.timeout(10):
                    await first
            somebody.execute("COMMIT")

    run(main())


def test_models_of_one_identity_follow_a_wave_together() -> None:
    async def main() -> None:
        async with failing(lambda body, choice: "Rating: 8") as server:
            configure(server.base_url, server.key)
            server.order(Order(), Order(hold=True))
            asking = asyncio.create_task(mapped(server, ["a"], score=open_scorer("judge(model=lab/m)")))
            while len(server.batches) < 2 or server.batches[1]["status"] != "in_progress":
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            server.release()
            (record,) = await mapped(server, ["a"], score=open_scorer("judge(model=lab/m)"))
            assert record.error is None
            routes = [each.route for each in asked(Path("provider"))]
            assert routes.count("GET /v1/files/{id}/content") == 2

    run(main())


def test_draws_of_one_question_that_leave_together_are_one_request() -> None:
    def line(text: str, *samples: int, seed: int | None = None) -> Line:
        request = structs.replace(Request.of(text), params=SamplingParams(seed=seed))
        keys = [f"{text} {sample}".encode() for sample in samples]
        return Line(keys, draws_of(request, [(sample,) for sample in samples]))

    async def main() -> None:
        lines = [
            line("a", 0),
            line("b", 0),
            line("a", 1, 2),
            line("s", 0, seed=1),
            line("a", 3, 4),
            line("s", 1, seed=1),
        ]
        one, rest, b, s, t = together(lines, 4)
        assert (b, rest, s, t) == (lines[1], lines[4], lines[3], lines[5])
        assert one.keys == [b"a 0", b"a 1", b"a 2"]
        assert one.draws is not None
        assert (one.draws.n, one.draws.samples) == (3, ((0,), (1,), (2,)))
        assert [await lines[i].landed for i in (0, 2)] == [Joined(one, 0), Joined(one, 1)]
        assert not any(line.landed.done() for line in (one, b, rest, s, t))
        assert together([line("a", 0, 1), line("a", 2)], 1) != []

    run(main())


def test_callers_of_one_question_are_one_request_of_a_wave_and_each_gets_its_draw() -> None:
    async def main() -> None:
        async with failing(lambda body, choice: f"choice {choice}") as server:
            store, backend = WaveStore(Path("run")), OpenAIBackend("m", base_url=server.base_url, api_key=server.key)
            scheduler = WaveScheduler(
                backend, Scheduler(backend), store, settings(pace=structs.replace(QUICK, alone=0.2))
            )
            question = Request.of("Q")

            async def after(turns: int, sample: int) -> str:
                for _ in range(turns):
                    await asyncio.sleep(0)
                return (await scheduler(question.draw(sample))).text

            texts = await asyncio.gather(after(0, 0), after(20, 1), after(40, 2))
            assert sorted(texts) == ["choice 0", "choice 1", "choice 2"]
            assert [each.body.get("n") for each in paid(Path("provider"))] == [3]
            await scheduler.waves.leave()
            store.close()
            await backend.aclose()

    run(main())
