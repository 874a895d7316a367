"""A router served over HTTP: a failing member is not noticed, passed through or under a technique."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web
from tests.backends.faulty_server import FaultyServer, faulty_server
from tests.scripting import run
from tests.server.serving import Client, running

from shoal.backends.config import load_config
from shoal.server.app import create_app


def app_over(servers: list[FaultyServer], names: tuple[str, ...], others: str) -> web.Application:
    endpoints = "".join(f'[endpoints.s{i}]\nbase_url = "{s.base_url}"\n' for i, s in enumerate(servers))
    members = ", ".join(f'"s{i}/{name}"' for i, name in enumerate(names))
    text = f'[server]\nmodels = ["small"]\n{endpoints}[models.small]\nendpoints = [{members}{others}]\n'
    Path("shoal.toml").write_text(text)
    Path("s.py").write_text("def f(request):\n    return 'from the script'\n")
    return create_app(load_config())


@asynccontextmanager
async def routed(*names: str, others: str = "") -> AsyncIterator[tuple[Client, list[FaultyServer]]]:
    """`small` over a server for each of the models named; "[[500]]" fails so."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(faulty_server()) for _ in names]
        yield await stack.enter_async_context(running(app_over(servers, names, others))), servers


def test_what_passes_through_is_shared_and_a_failing_server_is_not_noticed() -> None:
    async def main() -> None:
        async with routed("[[500]]", "b") as (client, servers):
            for i in range(6):
                whole = await client.chat("small", f"{i}", made_up=True)
                assert (whole.status, whole.json["id"]) == (200, "x")
                streamed = await client.chat("small", f"{i}", stream=True)
                assert streamed.events[-1] == "[DONE]"
            assert [len(server.requests) for server in servers] == [3, 12]
            assert {request.body["model"] for request in servers[1].requests} == {"b"}
            assert servers[1].requests[0].body["made_up"] is True

    run(main())


def test_under_a_technique_too() -> None:
    async def main() -> None:
        async with routed("[[503]]", "b") as (client, servers):
            reply = await client.chat("self_consistency(n=4)@small")
            assert (reply.status, reply.json["shoal"]["calls"]) == (200, 4)
            assert [request.body["n"] for server in servers for request in server.requests] == [4, 4]

    run(main())


def test_a_script_can_answer_for_servers_that_are_out() -> None:
    async def main() -> None:
        script = ', { model = "scripted/s.py:f", fallback = true }'
        async with routed("[[401]]", others=script) as (client, _):
            reply = await client.chat("small")
            assert reply.json["choices"][0]["message"]["content"] == "from the script"

    run(main())


def test_when_all_fail_it_is_an_error_of_the_server_behind() -> None:
    async def main() -> None:
        async with routed("[[401]]", "[[401]]") as (client, _):
            reply = await client.chat("small")
            assert reply.status == 502
            assert reply.error["message"][:4] in ("s0: ", "s1: ")

    run(main())
