"""Four server processes that simulate replicas, in real time: the router over HTTP, and what a failing replica costs.

python -m benchmarks.replicas_http [--scale 1 --scale 0.5]    affinity beside round-robin; about 8 minutes
python -m benchmarks.replicas_http --faults [--scale 0.3]     one replica killed half-way by its pid; one 4 x slower

A simulated second takes `--scale` real ones; figures are in simulated seconds. `late` is the share of the makespan by
which the replicas' steps ended too late, because this machine had no time for them: where it is not small, or where two
scales differ, a scale is too small for this machine.
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.replica_server import Server, servers
from benchmarks.replica_work import WORKS, Work
from benchmarks.replicas import REPLICAS, figures, opened, timed

from shoal.backends.config import Config, Endpoint
from shoal.backends.loop import run
from shoal.backends.openai import OpenAIBackend
from shoal.backends.routing import Route, Routing
from shoal.batch.mapping import amap
from shoal.batch.runner import Progress
from shoal.techniques.opening import open_model

_COMPARED = ("beam_search", "conversations of 8 turns", "96 of 6,000, 16 at once")
_VOTE = next(work for work in WORKS if work.name == "vote of 8, 64 at once")


def backend(server: Server, work: Work) -> OpenAIBackend:
    url, max_n = server.base_url, 128 if work.fused else 1
    return OpenAIBackend("m", endpoint=str(server.port), base_url=url, api_key="x", max_n=max_n)


def compared(work: Work, policy: str, scale: float) -> dict[str, float]:
    async def main() -> list[float]:
        base = opened(policy, work, [backend(server, work) for server in started], 0)
        try:
            return await timed(work, base, 0)
        finally:
            await base.aclose()

    with servers([1.0] * REPLICAS, scale) as started:
        seconds = [each / scale for each in run(main())]
        counts = [server.counts() for server in started]
    late = sum(each["late_s"] for each in counts) / REPLICAS / scale / seconds[0]
    return figures(seconds, counts) | {"late": late}


def faults(name: str, policy: str, scale: float, limit: int) -> dict[str, Any]:
    """A run with a run directory, as users have it; the digest is of what is in its output but for the usage."""
    with servers([4.0 if name == "slow" else 1.0] + [1.0] * (REPLICAS - 1), scale) as started:
        endpoints = {f"r{i}": Endpoint(server.base_url, "x", max_in_flight=limit) for i, server in enumerate(started)}
        routing = Routing(tuple(Route(f"{endpoint}/m") for endpoint in endpoints), affinity=policy == "affinity")
        model = open_model(
            "self_consistency(n=8)@small", config=Config(endpoints=endpoints, models={"small": routing}), cache=False
        )
        rows = [request.text for request in _VOTE.rows(Random(0))]

        def progress(told: Progress) -> None:
            if name == "killed" and told.finished == len(rows) // 2:
                os.kill(started[0].pid, signal.SIGKILL)

        async def main() -> tuple[float, list[Any]]:
            begun = asyncio.get_running_loop().time()
            records = await amap(model, rows, run_dir=directory, on_progress=progress)
            return asyncio.get_running_loop().time() - begun, records

        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "run"
            seconds, records = run(main())
    said = json.dumps([(record.id, record.output, record.answer) for record in records])
    return {
        "makespan_s": round(seconds / scale, 1),
        "rows": len(records),
        "failed": sum(record.error is not None for record in records),
        "calls": sum(record.usage.calls for record in records),
        "digest": blake2b(said.encode(), digest_size=8).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, action="append")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    if given.faults:
        for limit in (64, 1024):
            for name in ("undisturbed", "killed", "slow"):
                row = {"benchmark": "replicas_http", "fault": name, "at_once": limit}
                print(json.dumps(row | faults(name, "affinity", (given.scale or [0.3])[0], limit)), flush=True)
        return
    compared_too = [name for name in _COMPARED if given.only in name]
    for scale in given.scale or [1.0, 0.5]:
        for work in WORKS:
            for policy in ("affinity", "round-robin") if work.name in compared_too else ():
                row = {"benchmark": "replicas_http", "workload": work.name, "policy": policy, "scale": scale}
                found = compared(work, policy, scale)
                print(json.dumps(row | {key: float(f"{value:.4g}") for key, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
