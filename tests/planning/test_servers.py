"""Against a real server on loopback: a plan sends it nothing, and the run sends what was planned."""

import asyncio
from typing import Any

import pytest
from tests.backends.faulty_server import faulty_server

from shoal.backends.config import Config, Endpoint
from shoal.planning import Figure, Pilot, Plan, plan
from shoal.runtime.cache import DrawCache
from shoal.runtime.concurrency import gather
from shoal.runtime.types import Completion, Request
from shoal.techniques.opening import bases, open_model

ROWS = [{"question": f"What is {i} x 7?"} for i in range(12)]


def planned_and_run(spec: str, cache: Any = False, pilot: Pilot | None = None, **endpoint: Any) -> dict[str, Any]:
    """The plan, the requests the server got for it, and then those of the run, with its replies."""

    async def main() -> dict[str, Any]:
        async with faulty_server() as server:
            config = Config(endpoints={"lab": Endpoint(server.base_url, **endpoint)})
            model = open_model(spec, cache=cache, config=config)

            async def program(row: dict[str, Any]) -> Completion:
                return await model(Request.of(row["question"], max_tokens=20))

            try:
                told = await plan(program, ROWS, models=[model], pilot=pilot)
                before = [request for request in server.requests if request.method == "POST"]
                replies = await gather(*map(program, ROWS))
            finally:
                for base in bases(model):
                    await base.aclose()
            sent = [request for request in server.requests if request.method == "POST"][len(before) :]
            return {"plan": told, "before": before, "sent": sent, "replies": replies}

    return asyncio.run(main())


@pytest.mark.parametrize("max_n", [1, 2, 128])
def test_requests_are_those_that_were_planned(max_n: int) -> None:
    found = planned_and_run("self_consistency(n=4)@lab/m", max_n=max_n)
    told: Plan = found["plan"]
    assert found["before"] == []
    assert told.wire_requests == Figure(len(found["sent"]), len(found["sent"]), "exact")
    assert told.calls.least == told.calls.most == sum(reply.usage.calls for reply in found["replies"])


def test_a_pilot_learns_tokens_and_time_from_the_server(tmp_path: Any) -> None:
    found = planned_and_run("critique@lab/m", cache=DrawCache(tmp_path / "draws.sqlite"), pilot=Pilot(4))
    told: Plan = found["plan"]
    assert told.pilot is not None
    assert len(found["before"]) == told.pilot.calls == 12
    assert told.calls == Figure(len(found["sent"]), len(found["sent"]), "exact")
    spent = [reply.usage for reply in found["replies"]]
    assert told.prompt_tokens.source == told.completion_tokens.source == "pilot"
    assert told.prompt_tokens.least <= sum(usage.prompt_tokens for usage in spent) <= told.prompt_tokens.most
    completed = sum(usage.completion_tokens for usage in spent)
    assert told.completion_tokens.least <= completed <= told.completion_tokens.most
    assert told.seconds is not None
    assert 0 < told.seconds.least <= told.seconds.most
