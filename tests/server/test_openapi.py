"""The OpenAPI document: it is true of every route, and no request made from it is a failure of the server's."""

import asyncio
import os
import threading
from collections.abc import Iterator
from importlib.resources import files
from queue import Queue
from typing import Any

import msgspec
import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from tests.scripting import run
from tests.server.serving import Reply, running, scripted_model, serving

from shoal.runtime.types import Request
from shoal.server import playground
from shoal.server.app import create_app
from shoal.server.names import Names
from shoal.server.openapi import OPERATIONS, described
from shoal.server.settings import Preset, Settings

CASES = int(os.environ.get("SHOAL_FUZZ_CASES", "100"))
NAMES = ("m", "re2@m", "self_consistency(n=2)@m", "moa-m", "a preset", "m|re2-m", "nobody")
PRESETS = {"a preset": Preset("two_turn@m", system="Be brief.", temperature=0.5, stop=("END",))}


def app(**told_too: Any) -> web.Application:
    def script(request: Request) -> str:
        return "1. First.\n2. Second.\nScore: 7\nThe answer is 4."

    told = Settings(presets=PRESETS, **told_too)
    return create_app(settings=told, models=Names({"m": scripted_model(script)}, PRESETS))


def document() -> dict[str, Any]:
    """The document, with the names of this server's models: a random one would get no further than 404."""
    known = described(OPERATIONS)
    del known["security"], known["components"]["securitySchemes"]  # this server asks for no key
    for name, schema in known["components"]["schemas"].items():
        if "model" in schema.get("properties", {}) and name.endswith("_body"):
            schema["properties"]["model"] = {"type": "string", "enum": list(NAMES)}
    return known


SCHEMA = schemathesis.openapi.from_dict(document())
load_all_checks()
# What may be refused though it fits the schema (too many calls, a wrong option) is the server's to say.
LEFT_OUT = CHECKS.get_by_names(["positive_data_acceptance"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server runs, on a thread of its own: schemathesis asks it without asyncio."""
    told: Queue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Queue()

    async def main() -> None:
        async with running(app(state=str(tmp_path_factory.mktemp("state")))) as client:
            stop = asyncio.Event()
            told.put((client.url, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    where, loop, stop = told.get(timeout=30)
    yield where
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize("label", [f"{each.method} {each.path}" for each in OPERATIONS])
def test_no_request_made_from_the_document_is_a_failure(label: str, kind: str, url: str) -> None:
    method, path = label.split(" ")
    operation = SCHEMA[path][method]
    if kind == "NEGATIVE" and operation.definition.raw.get("requestBody") is None:
        return  # nothing there that could be wrong
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode[kind])

    @given(case=cases)
    @settings(max_examples=CASES, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)
    def test(case: Any) -> None:
        case.validate_response(case.call(base_url=url), excluded_checks=LEFT_OUT)

    test()


def test_every_route_is_in_the_document_and_no_other() -> None:
    there = {
        (route.method, route.resource.canonical)
        for route in app().router.routes()
        if route.resource is not None
        and route.method not in ("HEAD", "*")  # all methods: a path that only says what is not there
        and route.resource.canonical not in playground.pages()
    }
    assert {(each.method, each.path) for each in OPERATIONS} == there


def test_the_document_names_no_modules() -> None:
    assert not [name for name in described(OPERATIONS)["components"]["schemas"] if "." in name]


def test_the_document_is_served_and_is_in_the_package() -> None:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            return await client.get("/openapi.json")

    kept = msgspec.json.decode((files("shoal.server") / "openapi.json").read_bytes())
    served = run(main()).json
    assert served["openapi"].startswith("3.1")
    kept["info"].pop("version")
    served["info"].pop("version")
    assert served == kept, "python -m shoal.server.openapi > src/shoal/server/openapi.json"


def test_a_method_that_a_path_does_not_take_is_refused_with_those_that_it_does() -> None:
    async def main() -> Reply:
        async with serving({"m": scripted_model(lambda request: "x")}) as client:
            return await client.get("/v1/chat/completions")

    reply = run(main())
    assert (reply.status, reply.headers["allow"], reply.error["code"]) == (405, "POST", "http_405")
