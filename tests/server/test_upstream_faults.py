"""Every fault of a model's server, seen by a client: a proper error, or a retry that nobody sees; never a hang."""

import asyncio
from typing import Any

import pytest
from tests.backends.faulty_server import FAULTS, FaultyServer, faulty_server
from tests.scripting import run
from tests.server.serving import Reply, serving

from shoal.backends import open_base
from shoal.backends.config import Config, Endpoint
from shoal.runtime.retry import RetryPolicy

_KEY = "sk-upstream-secret-key"
_SECONDS = 1.5  # what a call may take here: enough for all attempts on a busy machine
_POLICY = RetryPolicy(base=0.0, deadline=_SECONDS, max_retry_after=0.1)
GOOD = {
    *("interim", "two-replies", "reset-after-body", "gzip", "error-body-null", "null-content", "sse-json"),
    *("usage-negative", "usage-huge", "usage-missing", "sse-drips", "sse-crlf", "sse-reset-after-done"),
    *("sse-no-last-chunk", "one-choice-less", "too-many-choices", "duplicate-index"),
}
STATUS = {
    **dict.fromkeys(("400", "context"), 400),
    **dict.fromkeys(("429", "429-retry-after", "429-retry-after-0", "429-retry-after-ms", "429-long"), 429),
    **dict.fromkeys(("429-final", "quota", "402", "error-body-429"), 429),
    **dict.fromkeys(("stall-before-headers", "stall-after-headers", "stall-in-body", "drip"), 504),
    **{code: int(code) for code in ("404", "413", "422")},
}
CALMED = ("429-retry-after", "429-retry-after-0", "429-retry-after-ms", "429-long")


def asked(fault: str, model: str, *, stream: bool) -> tuple[Reply, FaultyServer]:
    async def main() -> tuple[Reply, FaultyServer]:
        async with faulty_server() as upstream:
            config = Config({"up": Endpoint(upstream.base_url, _KEY, timeout=_SECONDS)})
            async with serving({"up/m": open_base("up/m", config, retry=_POLICY)}) as client, asyncio.timeout(10):
                return await client.chat(model, f"[[{fault}]]", stream=stream), upstream

    return run(main())


def words(events: list[Any]) -> str:
    deltas = [event["choices"][0]["delta"] for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize("model", ["up/m", "re2@up/m"])
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if not fault.startswith("sse")])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_fault_ends_as_an_error_of_the_right_status(fault: str, model: str, stream: bool) -> None:
    reply, _ = asked(fault, model, stream=stream)
    assert _KEY not in reply.text
    assert "<html" not in reply.text
    if reply.status == 200:
        assert fault in GOOD
        return
    lenient = fault in GOOD and reply.status == 502  # what passes unread may be refused where it is read
    assert lenient or reply.status == STATUS.get(fault, 502), reply.text
    assert reply.error["message"].startswith("up")
    assert ("retry-after" in reply.headers) == (fault in CALMED)


@pytest.mark.parametrize("model", ["up/m", "re2@up/m"])
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.startswith("sse")])
def test_a_stream_is_whole_or_ends_with_an_error(fault: str, model: str) -> None:
    reply, _ = asked(fault, model, stream=True)
    if reply.status != 200:
        assert reply.status == 502, reply.text
        assert reply.error["message"]
    elif reply.events[-1] == "[DONE]":
        assert fault in GOOD
        assert words(reply.events) in ("One fish, two fish.", "answer 0.0")
    else:
        assert "[DONE]" not in reply.events
        assert reply.events[-1]["error"].keys() == {"message", "type", "param", "code"}
        assert "One fish, two fish.".startswith(words(reply.events))


@pytest.mark.parametrize("model", ["up/m", "re2@up/m", "two_turn@up/m"])
@pytest.mark.parametrize("fault", ["503*1", "reset-in-body*1", "truncated-json*1", "html*2", "close-at-once*3"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_fault_that_passes_is_not_seen(fault: str, model: str, stream: bool) -> None:
    reply, upstream = asked(fault, model, stream=stream)
    assert reply.status == 200, reply.text
    assert len(upstream.requests) > int(fault[-1])
    assert not stream or reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("model", ["up/m", "re2@up/m"])
def test_a_server_that_is_not_there_is_a_bad_gateway(model: str) -> None:
    async def main() -> Reply:
        async with faulty_server() as gone:
            config = Config({"up": Endpoint(gone.base_url, _KEY)})
        async with serving({"up/m": open_base("up/m", config, retry=_POLICY)}) as client:
            return await client.chat(model)

    reply = run(main())
    assert (reply.status, reply.error["message"]) == (502, "up: connection refused")
