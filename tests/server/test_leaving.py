"""Clients that go away, or take their time: all that was asked for them stops, up to the wire."""

import asyncio

import pytest
from tests.backends.faulty_server import faulty_server
from tests.scripting import run
from tests.server.serving import scripted_model, serving

from shoal.backends.config import Config, Endpoint
from shoal.runtime.types import Request
from shoal.server.names import open_models
from shoal.techniques import TECHNIQUES

every_technique = pytest.mark.parametrize("slug", TECHNIQUES)


@every_technique
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_leaving_hangs_up_on_every_call_within_a_second(slug: str, stream: bool) -> None:
    async def main() -> None:
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving(models) as client:
                asked = asyncio.ensure_future(client.chat(f"{slug}@up/m", "[[stall-before-headers]]", stream=stream))
                await upstream.got(1)
                for _ in range(100):  # all that is asked at once has come by then
                    await asyncio.sleep(0)
                asked.cancel()
                async with asyncio.timeout(1):
                    await upstream.hung_up(len(upstream.requests))
                (base,) = models.values()
                assert (base.scheduler.in_flight, base.scheduler.waiting) == (0, 0)  # type: ignore[union-attr]

    run(main())


@pytest.mark.parametrize("model", ["up/m", "re2@up/m"])
def test_leaving_in_the_middle_of_a_stream_hangs_up(model: str) -> None:
    async def main() -> None:
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving(models) as client:
                body = {"model": model, "messages": [{"role": "user", "content": "[[sse-stall]]"}], "stream": True}
                url = client.url + "/v1/chat/completions"
                response = await client.session.post(url, json=body)
                first = await response.content.readuntil(b"\n\n")
                assert first.startswith(b"data: ")
                response.close()
                async with asyncio.timeout(1):
                    await upstream.hung_up(1)

    run(main())


def test_the_first_word_comes_before_the_call_has_ended() -> None:
    async def main() -> None:
        async with faulty_server() as upstream:
            models = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url)}), None)
            async with serving(models) as client:
                body = {"model": "re2@up/m", "messages": [{"role": "user", "content": "[[sse-stall]]"}], "stream": True}
                async with client.session.post(client.url + "/v1/chat/completions", json=body) as response:
                    read = b""
                    async with asyncio.timeout(2):
                        while b"One " not in read:
                            read += await response.content.readuntil(b"\n\n")
                assert upstream.requests[0].body["stream"] is True

    run(main())


def test_equal_requests_at_the_same_time_get_draws_of_their_own() -> None:
    async def main() -> tuple[list[str], int]:
        together = asyncio.Event()
        asked: list[Request] = []

        async def script(request: Request) -> str:
            asked.append(request)
            if len(asked) == 4:
                together.set()
            await together.wait()
            return f"answer {len(asked)}"

        async with serving({"m": scripted_model(script)}) as client:
            replies = await asyncio.gather(*(client.chat("re2@m") for _ in range(2)), *(client.chat("m") for _ in "ab"))
            return [reply.json["id"] for reply in replies], len(asked)

    ids, calls = run(main())
    assert len(set(ids)) == 4
    assert calls == 4
