"""Runs whose calls travel in waves, on a batch server that fails as it is told."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.backends.faulty_batches import FaultyBatches, paid
from tests.scripting import AT_ONCE

import shoal
from shoal.backends import BaseModel
from shoal.backends.waves import Pace, WaveSettings
from shoal.batch.records import Record
from shoal.runtime.model import Applied

# As fast as a test may be: every step waits for an event of the server's, and these only space them out.
QUICK = Pace(alone=0.02, company=0.05, poll=0.005, longest=0.02, pause=0.005, grace=0.05)
RUN = Path("run")


def settings(**changes: Any) -> WaveSettings:
    return WaveSettings(**{"pace": QUICK, **changes})


@asynccontextmanager
async def serving(reply: Any = None) -> AsyncIterator[FaultyBatches]:
    """The server, in the loop of the test, with its ledger in ./provider."""
    server = FaultyBatches(Path("provider"), *([reply] if reply else []))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def model_of(server: Any, spec: str = "lab/m", **options: Any) -> BaseModel | Applied:
    options = {"cache": None, "retry": AT_ONCE, "api_key": server.key, **options}
    return shoal.open_model(spec, base_url=server.base_url, **options)


async def mapped(server: Any, items: Any, *, spec: str = "lab/m", subject: Any = None, **options: Any) -> list[Record]:
    """`shoal.map` in waves; as in a process of its own, the model is opened for it and closed."""
    model = model_of(server, spec)
    waves = options.pop("waves", None) or settings()
    if subject is not None:
        options["model"] = model
    try:
        return await shoal.amap(subject or model, items, run_dir=RUN, batch_api=waves, **options)
    finally:
        base = model
        while isinstance(base, Applied):
            base = base.model  # type: ignore[assignment]
        await base.aclose()  # type: ignore[union-attr]


def draws_paid() -> Counter[str]:
    """How often each question's draws were paid, live or in a batch: by what was asked."""
    counted: Counter[str] = Counter()
    for each in paid(Path("provider")):
        counted[each.body["messages"][-1]["content"]] += each.body.get("n", 1)
    return counted


def waves_sent() -> list[int]:
    """The requests of each batch that was carried out, in the order of their first."""
    return list(Counter(each.batch for each in paid(Path("provider")) if each.batch).values())


def live_paid() -> int:
    return sum(each.batch is None for each in paid(Path("provider")))


def outputs(records: list[Record]) -> list[Any]:
    return [record.output if record.error is None else record.error.type for record in records]


def same(body: dict[str, Any], choice: int) -> str:
    """A reply that depends on what was asked and on nothing else."""
    return f"said {choice} to {json.dumps(body['messages'][-1]['content'])}"
