"""kill -9 at every step of a comparison's waves: the same call goes on, and every draw is paid once."""

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tests.backends.faulty_batches import FaultyBatches, paid
from tests.batch.waving import draws_paid, live_paid, serving
from tests.scripting import run

from shoal.evaluation.comparing.result import Comparison, decode

pytestmark = pytest.mark.usefixtures("at_home")
SCRIPT = """
import sys

import shoal
from shoal.backends.config import Config, Endpoint
from shoal.backends.waves import Pace, WaveSettings

pace = Pace(alone=0.05, company=0.1, poll=0.005, longest=0.02, pause=0.005, grace=0.05)
rows = [{"q": f"Q{i}"} for i in range(12)]
shoal.compare(
    rows, ["self_consistency(n=4)", "re_reading"], model="lab/m", template="{q}", scorer="judge(model=lab/judge)",
    config=Config(endpoints={"lab": Endpoint(sys.argv[1], "key")}),
    report_dir="report", batch_api=WaveSettings(pace=pace),
)
"""
UPLOAD, CREATE = "POST /v1/files", "POST /v1/batches"
LOOK, CONTENT, DELETE = "GET /v1/batches/{id}", "GET /v1/files/{id}/content", "DELETE /v1/files/{id}"


def reply(body: dict[str, Any], choice: int) -> str:
    said = body["messages"][-1]["content"]
    return f"Score: {sum(map(ord, said)) % 10}" if body["model"] == "judge" else f"The answer is {sum(map(ord, said))}."


def log() -> BinaryIO:
    Path("program.py").write_text(SCRIPT)
    return Path("log").open("ab")


def logged() -> str:
    return Path("log").read_text()


async def started(server: FaultyBatches) -> asyncio.subprocess.Process:
    with log() as file:
        return await asyncio.create_subprocess_exec(sys.executable, "program.py", server.base_url, stderr=file)


def found() -> Comparison:
    return decode(Path("report", "comparison.json").read_bytes())


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("route", "count"),
    [
        (UPLOAD, 1),
        *((route, count) for route in (CREATE, CONTENT) for count in (1, 2)),
        (LOOK, 4),
        (DELETE, 2),
    ],
)
def test_killed_when_the_provider_has_done_it_and_before_it_is_known(route: str, count: int) -> None:
    async def main() -> None:
        async with serving(reply) as server:
            server.disturb(route, *[""] * (count - 1), "hold-after")
            process = await started(server)
            await server.until(route, count)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            server.let_go()
            process = await started(server)
            assert await process.wait() == 0, logged()
            # One wave of answers and one of ratings: what was sent was found again.
            assert Counter(each.body["model"] for each in paid(Path("provider")) if each.batch).keys() == {"m", "judge"}
            assert len({each.batch for each in paid(Path("provider"))}) == len(server.batches) == 2
            assert live_paid() == 0
            spent = draws_paid()
            assert {question: n for question, n in spent.items() if len(question) < 4} == {
                f"Q{i}": 1 + 4 for i in range(12)
            }
            assert set(spent.values()) == {1, 1 + 4}
            assert [arm.failed for arm in found().arms] == [0, 0, 0]
            assert [arm.calls for arm in found().arms] == [12, 48, 12]

    run(main())
