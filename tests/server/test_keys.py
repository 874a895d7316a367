"""Keys: who comes in, what each key covers, how much it may ask for, and that what was spent is paid for."""

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.scripting import in_turn, run
from tests.server.serving import Reply, running, scripted_model, serving

from shoal.backends import BaseModel
from shoal.backends.config import Config, load_config
from shoal.errors import ModelError, UsageError
from shoal.runtime.budget import Budget, Reservation
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Request, Usage
from shoal.server import playground
from shoal.server.access.callers import Caller
from shoal.server.access.keys import digest, new_key, settings_for
from shoal.server.access.ledger import Ledger
from shoal.server.app import KEYS, create_app
from shoal.server.names import Names
from shoal.server.refusals import Refusal
from shoal.server.settings import KeySettings, Preset, Settings, settings_of
from shoal.techniques.self_consistency import self_consistency

KEY, OTHER = "shoal-" + "k" * 43, "shoal-" + "o" * 43
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
BEARER = {"authorization": f"Bearer {KEY}"}
OPEN = {"/health", *playground.pages()}  # the pages are the same for everybody


def keyed(**limits: Any) -> dict[str, KeySettings]:
    return {"alice": KeySettings(DIGEST, **limits)}


def asked(
    model: str = "m",
    *,
    times: int = 1,
    serve: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    **limits: Any,
) -> list[Reply]:
    """The replies to requests one after another, of somebody whose key has these limits."""

    async def main() -> list[Reply]:
        served = serve or {"m": scripted_model(lambda request: "The answer is 4.")}
        async with serving(served, keys=keyed(**limits), **(settings or {})) as client:
            return [await client.chat(model, headers=BEARER, **(body or {})) for _ in range(times)]

    return run(main())


# Who comes in


def test_every_route_but_the_open_ones_asks_for_a_key() -> None:
    async def main() -> None:
        base = scripted_model(lambda request: "x")
        settings = Settings(keys=keyed())
        app = create_app(settings=settings, models=Names({"m": base}, {}))
        routes = [
            (method.replace("*", "POST"), resource.canonical.replace("{name}", "m").replace("{id}", "x"))
            for resource in app.router.resources()
            for method in sorted({route.method for route in resource})
        ]
        assert ("POST", "/v1/chat/completions") in routes
        assert ("GET", "/metrics") in routes
        assert all(path in ("/", "/health") or path.startswith("/playground/static/") for path in OPEN)
        async with running(app) as client:
            for method, path in [*routes, ("GET", "/nothing"), ("DELETE", "/v1/models"), ("GET", "/docs")]:
                wanted = 200 if path in OPEN else 401
                async with client.session.request(method, client.url + path) as response:
                    assert response.status == wanted, (method, path)
        assert not base.backend.requests  # type: ignore[attr-defined]

    run(main())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer Bearer {KEY}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Bearer {KEY} x"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer schlüssel"},
        {"authorization": "Bearer \N{KEY}"},
        {"authorization": f"Bearer {DIGEST}"},
        {"authorization": f"Bearer {'k' * 8000}"},
        {"x-api-key": ""},
        {"x-api-key": OTHER},
        {"cookie": f"key={KEY}"},
        {"x-goog-api-key": KEY},
    ],
)
def test_all_wrong_keys_get_the_same_refusal(headers: dict[str, str]) -> None:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}, keys=keyed()) as client:
            return await client.chat("m", headers=headers)

    reply = run(main())
    assert reply.status == 401
    assert reply.error == {
        "message": "A key of this server is needed: Authorization: Bearer KEY",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_of_10_kilobytes_does_not_come_in() -> None:
    async def main() -> int:
        async with serving({"m": scripted_model(lambda request: "x")}, keys=keyed()) as client:
            return (await client.get("/v1/models", headers={"authorization": f"Bearer {'k' * 10_000}"})).status

    assert run(main()) in (400, 401, 431)


@pytest.mark.parametrize("headers", [BEARER, {"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}])
def test_the_right_key_comes_in(headers: dict[str, str]) -> None:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}, keys=keyed()) as client:
            return await client.chat("m", headers=headers)

    assert run(main()).status == 200


def test_a_long_key_is_compared_to_its_end() -> None:
    key = "k" * 600

    async def main() -> list[int]:
        async with serving({"m": scripted_model(lambda request: "x")}, keys={"a": settings_for(key)}) as client:
            tries = (key, key + "x", key[:512])
            return [(await client.get("/v1/models", headers={"x-api-key": one})).status for one in tries]

    assert run(main()) == [200, 401, 401]


def test_keys_are_new_each_time_and_long() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("shoal-") and len(key) >= 6 + 43 for key in keys)
    assert digest(KEY).hex() == DIGEST


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f'[server.keys.alice]\nsha256 = "{KEY}"', r"shoal.toml \[server.keys.alice\]: sha256 must be the 64 hex"),
        ('[server.keys.alice]\nsha256 = ""', r"\[server.keys.alice\]: sha256 must be"),
        (f'[server.keys.a]\nsha256 = "{hashlib.sha256().hexdigest()}"', r"\[server.keys.a\]: .*no key at all"),
        ("[server.keys.alice]\nsha256 = 3", r"\[server.keys.alice\]"),
        ("[server.keys.alice]\nrpm = 3", r"\[server.keys.alice\]: .*sha256"),
        (f'[server.keys."a b"]\nsha256 = "{DIGEST}"', r"\[server.keys.a b\]: a key's name is of"),
        (f'[server.keys.""]\nsha256 = "{DIGEST}"', "a key's name is of"),
        (f'[server.keys.a]\nsha256 = "{DIGEST}"\nrpm = 0', r"\[server.keys.a\]"),
        (f'[server.keys.a]\nsha256 = "{DIGEST}"\nrpms = 1', "did you mean rpm"),
        (f'[server]\nkeys = ["{DIGEST}"]', r"\[server.keys\]: must be tables"),
        (f'[server]\nkeys = {{a = "{DIGEST}"}}', r"\[server.keys.a\]: must be a table"),
        ('[server]\norigins = ["*"]', r"\[server\]: origins: '\*' is not of the form"),
        ('[server]\norigins = ["https://a.test/"]', "origins"),
    ],
)
def test_wrong_configurations_are_told_by_table_and_never_repeat_a_key(table: str, said: str, at_home: Path) -> None:
    (at_home / "shoal.toml").write_text(table)
    with pytest.raises(UsageError, match=said) as error:
        settings_of(load_config())
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"models": ("nobody",)}, r"\[server.keys.alice\] models: .*'nobody' does not exist"),
        ({"techniques": ("nothing",)}, r"\[server.keys.alice\] techniques: there is no technique 'nothing'"),
    ],
)
def test_a_key_for_what_is_not_there_is_told_at_the_start(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        create_app(
            settings=Settings(keys=keyed(**limits)), models=Names({"m": scripted_model(lambda request: "x")}, {})
        )


# What a key covers


def several() -> dict[str, Any]:
    cheap, dear = (scripted_model(lambda request: "The answer is 4.", name=name) for name in ("cheap", "dear"))
    return {"lab/cheap": cheap, "lab/dear": dear, "vote": apply(self_consistency, dear, n=2)}


PRESETS = {"careful": Preset("self_consistency(n=2)@lab/dear")}


@pytest.mark.parametrize(
    ("limits", "model", "body", "code"),
    [
        ({}, "lab/dear", {}, None),
        ({"models": ("lab/cheap",)}, "lab/cheap", {}, None),
        ({"models": ("lab/cheap",)}, "cheap", {}, None),
        ({"models": ("cheap",)}, "lab/cheap", {}, None),
        ({"models": ("lab/cheap",)}, "re2@cheap", {}, None),
        ({"models": ("lab/cheap",)}, "lab/dear", {}, "model_not_allowed"),
        ({"models": ("lab/cheap",)}, "re2@lab/dear", {}, "model_not_allowed"),
        ({"models": ("lab/cheap",)}, "re2-dear", {}, "model_not_allowed"),
        ({"models": ("lab/cheap",)}, "dear", {"optillm_approach": "re2"}, "model_not_allowed"),
        ({"models": ("lab/cheap",)}, "careful", {}, "model_not_allowed"),
        ({"models": ("lab/cheap",)}, "vote", {}, "model_not_allowed"),
        # A model that an option names is asked as well.
        ({"models": ("lab/cheap",)}, "best_of_n(n=2, judge=lab/dear)@lab/cheap", {}, "model_not_allowed"),
        ({"models": ("lab/cheap",)}, "bon@cheap", {"shoal": {"options": {"judge": "dear"}}}, "model_not_allowed"),
        ({"models": ("lab/cheap", "lab/dear")}, "best_of_n(n=2, judge=lab/dear)@lab/cheap", {}, None),
        # A preset, or a model with techniques, is covered as it is.
        ({"models": ("careful",)}, "careful", {}, None),
        ({"models": ("vote",), "techniques": ()}, "vote", {}, None),
        ({"models": ("careful",), "techniques": ()}, "careful", {}, None),
        ({"models": ("careful",)}, "lab/dear", {}, "model_not_allowed"),
        ({"models": ("careful",)}, "self_consistency(n=2)@lab/dear", {}, "model_not_allowed"),
        ({"models": ("vote",)}, "vote", {"shoal": {"technique": "re2"}}, "model_not_allowed"),
        ({"models": ("careful",)}, "careful", {"temperature": 0.5, "n": 2}, None),
        ({"models": ("careful",)}, "careful", {"shoal": {"options": {"n": 3}}}, "model_not_allowed"),
        ({"models": ("careful",)}, "careful", {"shoal": {"options": {"proposers": ["dear"]}}}, "model_not_allowed"),
        ({"models": ("careful", "dear")}, "careful", {"shoal": {"options": {"n": 3}}}, None),
        # Techniques
        ({"techniques": ("re2",)}, "re_reading@cheap", {}, None),
        ({"techniques": ("re_reading",)}, "cheap", {}, None),
        ({"techniques": ("re_reading",)}, "moa@cheap", {}, "technique_not_allowed"),
        ({"techniques": ("re_reading",)}, "re2&moa@cheap", {}, "technique_not_allowed"),
        ({"techniques": ("re_reading",)}, "(re2@moa)@cheap", {}, "technique_not_allowed"),
        ({"techniques": ("re_reading",)}, "re2@cheap", {"shoal": {"technique": "moa"}}, "technique_not_allowed"),
        ({"techniques": ("best_of_n",)}, "bon(n=2, judge=moa@cheap)@cheap", {}, "technique_not_allowed"),
        ({"techniques": ("re_reading",)}, "careful", {}, "technique_not_allowed"),
        ({"techniques": ()}, "re2@cheap", {}, "technique_not_allowed"),
        ({"models": ("cheap",), "techniques": ("re2",)}, "moa@cheap", {}, "technique_not_allowed"),
    ],
)
def test_what_a_key_covers(limits: dict[str, Any], model: str, body: dict[str, Any], code: str | None) -> None:
    models = several()
    (reply,) = asked(model, serve=models, settings={"presets": PRESETS}, body=body, **limits)
    if code is None:
        assert reply.status == 200, reply.text
        return
    assert (reply.status, reply.error["code"], reply.error["type"]) == (403, code, "permission_error")
    assert not any(base.backend.requests for base in models.values() if isinstance(base, BaseModel))  # type: ignore[attr-defined]


def test_only_what_a_key_covers_is_listed() -> None:
    async def main(**limits: Any) -> tuple[set[str], int]:
        async with serving(several(), keys=keyed(**limits), presets=PRESETS) as client:
            listed = (await client.get("/v1/models", headers=BEARER)).json["data"]
            status = (await client.get("/v1/models/lab/dear", headers=BEARER)).status
            return {model["id"] for model in listed}, status

    everything, status = run(main())
    assert {"lab/cheap", "lab/dear", "vote", "careful", "re_reading@lab/dear"} < everything
    assert status == 200
    listed, status = run(main(models=("cheap", "careful"), techniques=("re2", "moa")))
    assert listed == {"lab/cheap", "careful", "re_reading@lab/cheap", "mixture_of_agents@lab/cheap"}
    assert status == 403


def test_a_key_for_some_models_is_not_told_the_names_of_others() -> None:
    (reply,) = asked("lab/daer", serve=several(), models=("cheap",))
    assert reply.status == 404
    assert "lab/dear" not in reply.text
    (reply,) = asked("lab/daer", serve=several())
    assert "did you mean lab/dear?" in reply.error["message"]


# How much a key may ask for


def test_requests_a_minute() -> None:
    *good, last = asked(times=3, rpm=2)
    assert [reply.status for reply in good] == [200, 200]
    assert good[0].headers["x-ratelimit-limit-requests"] == "2"
    assert good[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert good[0].headers["x-ratelimit-reset-requests"] == "30s"
    assert "x-ratelimit-limit-tokens" not in good[0].headers
    assert (last.status, last.error["code"], last.error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert last.headers["retry-after"] == "30"
    assert last.headers["x-ratelimit-remaining-requests"] == "0"
    assert last.headers["x-ratelimit-reset-requests"] == "1m0s"


def test_tokens_a_minute_are_counted_as_they_are_spent() -> None:
    first, second, third = asked("re2@m", times=3, tpm=6, body={"stream": True})
    assert (first.status, second.status) == (200, 429)
    assert first.headers["x-ratelimit-remaining-tokens"] == "6"  # as it was when the stream began
    assert second.error["message"] == "this key may spend 6 tokens a minute"
    assert second.headers["x-ratelimit-remaining-tokens"] == "0"
    assert int(second.headers["retry-after"]) >= int(third.headers["retry-after"]) > 1


def test_streams_tell_the_rates_too() -> None:
    (reply,) = asked(rpm=10, body={"stream": True})
    assert reply.headers["x-ratelimit-remaining-requests"] == "9"
    assert reply.headers["content-type"].startswith("text/event-stream")


class Held:
    """A model that answers when it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> str:
        self.asked.release()
        await self.go.wait()
        return "done now"


def test_requests_at_once() -> None:
    async def main() -> tuple[list[int], Reply, Reply]:
        held = Held()
        async with serving({"m": scripted_model(held)}, keys=keyed(max_in_flight=2)) as client:
            tasks = [asyncio.ensure_future(client.chat("m", str(i), headers=BEARER)) for i in range(2)]
            for _ in tasks:
                await held.asked.acquire()
            refused = await client.chat("m", headers=BEARER)
            held.go.set()
            done = await asyncio.gather(*tasks)
            return [reply.status for reply in done], refused, await client.chat("m", headers=BEARER)

    statuses, refused, after = run(main())
    assert statuses == [200, 200]
    assert (refused.status, refused.error["code"]) == (429, "concurrency_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    assert after.status == 200


def test_keys_are_limited_each_for_itself() -> None:
    async def main() -> list[int]:
        keys = {**keyed(rpm=1), "bob": KeySettings(digest(OTHER).hex(), rpm=1)}
        async with serving({"m": scripted_model(lambda request: "x")}, keys=keys) as client:
            both = (KEY, KEY, OTHER, OTHER)
            return [(await client.chat("m", headers={"x-api-key": key})).status for key in both]

    assert run(main()) == [200, 429, 200, 429]


# The day's tokens


def day_app(state: Path, base: BaseModel, limit: int = 10) -> web.Application:
    settings = Settings(keys=keyed(tokens_per_day=limit), state=str(state))
    return create_app(settings=settings, models=Names({"m": base}, {}))


def test_the_days_tokens_survive_a_restart(at_home: Path) -> None:
    def five_words(request: Request) -> str:
        return "one two three four five"

    async def main() -> tuple[list[int], Reply]:
        statuses = []
        for _ in range(2):
            async with running(day_app(at_home, scripted_model(five_words))) as client:
                statuses.append((await client.chat("m", headers=BEARER)).status)
        async with running(day_app(at_home, scripted_model(five_words))) as client:
            return statuses, await client.chat("m", headers=BEARER)

    statuses, refused = run(main())
    assert statuses == [200, 200]  # 6 tokens each
    assert (refused.status, refused.error["code"]) == (429, "tokens_per_day_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 86400
    assert (at_home / "usage.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_technique_stops_when_the_days_tokens_are_gone(at_home: Path) -> None:
    base = scripted_model(lambda request: "one two three four five six")

    async def main() -> Reply:
        async with running(day_app(at_home, base)) as client:
            return await client.chat("critique(rounds=5)@m", headers=BEARER)

    reply = run(main())
    assert (reply.status, reply.error["code"]) == (429, "tokens_per_day_exceeded")
    assert len(base.backend.requests) == 2  # type: ignore[attr-defined]


def test_the_ledger_counts_by_day_and_shares_its_file(tmp_path: Path) -> None:
    now = [86400.0 * 20000 + 5]

    async def main() -> None:
        one, other = (Ledger(tmp_path / "usage.sqlite", lambda: now[0]) for _ in range(2))
        one.add("a", 5)
        one.add("a", 2)
        one.add("b", 1)
        assert (one.spent("a"), one.spent("b"), one.spent("c")) == (7, 1, 0)
        await one.aclose()
        other.add("a", 10)
        await other._writing if other._writing else None
        assert other.spent("a") == 17
        now[0] += 86400
        assert other.spent("a") == 0
        other.add("a", 3)
        assert other.spent("a") == 3
        await other.aclose()

    run(main())


def test_a_ledger_that_cannot_be_written_counts_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        ledger = Ledger(tmp_path / "usage.sqlite")
        ledger._store._reader.execute("DROP TABLE spent")
        ledger.add("a", 5)
        assert ledger._writing is not None
        await ledger._writing
        ledger.add("a", 2)
        spent = ledger.spent("a")
        await ledger.aclose()
        return spent

    assert run(main()) == 7
    assert "counted in memory from here on" in caplog.text


# Paying


async def paid(caller: Caller, budget: Budget, error: BaseException | None, lost: Usage) -> None:
    with caller.admitted(budget, lambda: lost):
        await budget.reserve(Reservation(10))
        budget.settle(Reservation(10), Usage(3, 4, 1))
        assert caller.spent.total_tokens == 7  # at once, not at the end
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "tokens"),
    [(None, 7), (asyncio.CancelledError(), 9), (ConnectionResetError(), 9), (ModelError("x"), 7)],
)
def test_what_was_spent_is_paid_however_a_request_ends(error: BaseException | None, tokens: int) -> None:
    caller = Caller("a")

    async def main() -> None:
        with contextlib.suppress(asyncio.CancelledError, ConnectionResetError, ModelError):
            await paid(caller, Budget(calls=5, tokens=100), error, Usage(2, 0, 1, estimated=True))

    run(main())
    assert caller.spent.total_tokens == tokens
    assert caller.in_flight == 0


def test_a_refused_request_costs_nothing() -> None:
    caller = Caller("a", KeySettings(DIGEST, rpm=1))

    async def main() -> None:
        with caller.admitted(Budget()):
            pass
        with pytest.raises(Refusal, match="1 requests a minute"), caller.admitted(Budget()):
            raise AssertionError

    run(main())
    assert (caller.spent, caller.in_flight) == (Usage(), 0)


def who_went_away(model: str, stream: bool, script: Any, settled: int) -> Usage:
    """What a client is charged that goes away while the last call is under way."""

    async def main() -> Usage:
        held = asyncio.Semaphore(0)
        stays = asyncio.Event()

        async def held_script(request: Request) -> str | Completion:
            held.release()
            if len(base.backend.requests) > settled:  # type: ignore[attr-defined]
                await stays.wait()
            said: str = script(request)
            return said

        base = scripted_model(held_script)
        app = create_app(settings=Settings(keys=keyed()), models=Names({"m": base}, {}))
        caller = app[KEYS].caller(BEARER)
        async with running(app) as client:
            task = asyncio.ensure_future(client.chat(model, "x" * 400, headers=BEARER, stream=stream))
            for _ in range(settled + 1):
                await held.acquire()
            task.cancel()
            async with asyncio.timeout(5):
                while caller.in_flight:
                    await asyncio.sleep(0)
        return caller.spent

    return run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_pays_for_what_was_under_way(stream: bool) -> None:
    spent = who_went_away("m", stream, in_turn("x"), 0)
    assert spent == Usage(100, 0, 1, estimated=True)
    spent = who_went_away("two_turn@m", stream, in_turn("four words of text"), 1)
    assert spent.calls == 2
    assert spent.completion_tokens == 4
    assert spent.prompt_tokens > 1 + 100  # the first call's, as counted, and an estimate of the second's


def test_a_client_of_the_server_cannot_make_keys() -> None:
    async def main() -> list[int]:
        async with serving({"m": scripted_model(lambda request: "x")}, keys=keyed()) as client:
            paths = ("/key/generate", "/v1/keys", "/admin", "/config", "/v1/config", "/docs", "/openapi")
            return [(await client.get(path, headers=BEARER)).status for path in paths]

    assert set(run(main())) == {404}


def test_the_docs_table_is_read(at_home: Path) -> None:
    (at_home / "shoal.toml").write_text(
        f'[server.keys.alice]\nsha256 = "{DIGEST}"\nmodels = ["m"]\ntechniques = []\nrpm = 60\ntpm = 90000\n'
        "tokens_per_day = 1000000\nmax_in_flight = 8\nmetrics = true\n"
    )
    (key,) = settings_of(load_config()).keys.values()
    assert (key.models, key.techniques, key.max_in_flight, key.metrics) == (("m",), (), 8, True)
    assert Config().server == {}
