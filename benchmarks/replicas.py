"""Four simulated replicas behind shoal's router: prompt tokens computed and makespan, beside round-robin and random.

python -m benchmarks.replicas [--seeds 5] [--only NAME]    some 20 minutes for all; exact, the same every time

The router, the techniques and the runner's window are shoal's own, on a clock that jumps from event to event; the
replicas are `replica_engine`, in this process (`replicas_http` asks the same of server processes). One JSON line for
each workload and policy: means over seeds, and what prompt tokens and makespan are to round-robin's of the same seed,
each with half its 95 % interval. `one cache` is a bound: all work on one replica whose cache never fills.
"""

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from typing import Any
from zlib import crc32

from benchmarks.replica_engine import Hardware, Replica, tokens_of
from benchmarks.replica_replies import rendered, reply
from benchmarks.replica_work import WORKS, Work
from tests.virtual_time import run_virtually

from shoal.backends import BaseModel
from shoal.backends.member import Member
from shoal.backends.router import Router
from shoal.batch.runner import window_for
from shoal.errors import ConnectionFailed
from shoal.runtime import scope
from shoal.runtime.backend import Backend, Capabilities, Draws, Outcome
from shoal.runtime.concurrency import map_bounded
from shoal.runtime.limits import Limits
from shoal.runtime.types import Completion, Delta, Request, Usage

REPLICAS = 4
_IN_FLIGHT = 1024  # what the client of OpenAI's API allows itself
_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # t, 95 %, by samples


class NotStreaming:
    """What the backends here have in common."""

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        raise NotImplementedError
        yield

    async def aclose(self) -> None: ...


class ReplicaBackend(NotStreaming):
    """One replica, in this process."""

    def __init__(self, name: str, replica: Replica, *, fused: bool) -> None:
        self.name = self.identity = name
        self.replica = replica
        self.capabilities = Capabilities(max_n=128 if fused else 1, max_in_flight=_IN_FLIGHT)

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        (asked,) = batch
        messages = [{"role": message.role, "content": message.content} for message in asked.request.messages]
        paths = asked.samples or (asked.request.sample,)
        said = [reply(messages, crc32(repr(path).encode()) % 1000) for path in paths]
        try:
            draws = await self.replica.draw(rendered(messages), said)
        except ConnectionError as error:
            raise ConnectionFailed(str(error), endpoint=self.name) from error
        prompt = draws[0].tokens
        return [
            [
                Completion(draw.reply, usage=Usage(0 if i else prompt, tokens_of(draw.reply), 1))
                for i, draw in enumerate(draws)
            ]
        ]


class Spread(NotStreaming):
    """All replicas as one endpoint: what stands before them sends a request wherever `choose` says."""

    def __init__(self, replicas: Sequence[Backend], choose: Callable[[], int]) -> None:
        self.name = self.identity = "spread"
        self.replicas = replicas
        self.choose = choose
        first = replicas[0].capabilities
        self.capabilities = Capabilities(max_n=first.max_n, max_in_flight=_IN_FLIGHT * len(replicas))

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return await self.replicas[self.choose()].generate(batch)


def opened(policy: str, work: Work, replicas: Sequence[Backend], seed: int) -> BaseModel:
    """The replicas as one model."""
    if policy not in ("affinity", "least loaded"):
        turns, chance = count(), random.Random(seed)
        if policy == "random":
            choose = lambda: chance.randrange(len(replicas))  # noqa: E731
        else:
            choose = lambda: next(turns) % len(replicas)  # noqa: E731
        limits = Limits(max_in_flight=work.limit * REPLICAS if work.limit else None)
        return BaseModel(Spread(replicas, choose), limits=limits)
    members = [Member(BaseModel(replica, limits=Limits(max_in_flight=work.limit))) for replica in replicas]
    return BaseModel(Router("replicas", members, affinity=policy == "affinity"))


async def simulated(work: Work, policy: str, seed: int) -> dict[str, float]:
    hardware = [Replica(slowness=work.slowness if i == 0 else 1.0) for i in range(REPLICAS)]
    if policy == "one cache":
        hardware = [Replica(Hardware(kv_tokens=1 << 30))]
    replicas = [ReplicaBackend(f"replica{i}", each, fused=work.fused) for i, each in enumerate(hardware)]
    if work.dies_s is not None:
        asyncio.get_running_loop().call_later(work.dies_s, hardware[0].die)
    seconds = await timed(work, opened(policy, work, replicas, seed), seed)
    return figures(seconds, [vars(each.engine.counts) | {"busy_s": each.busy_s} for each in hardware])


async def timed(work: Work, base: BaseModel, seed: int) -> list[float]:
    """Seconds from the beginning to each row's end, and of each row; rows begin as in a run of shoal's."""
    clock = asyncio.get_running_loop().time
    program = work.program(base)
    rows = work.rows(random.Random(seed))

    async def one(row: tuple[int, Request]) -> float:
        begun = clock()
        with scope.setting(scope.age, row[0]):
            await program(row[1])
        return clock() - begun

    begun = clock()
    took = [seconds async for seconds in map_bounded(one, enumerate(rows), window_for([base]))]
    return [clock() - begun, *took]


def figures(seconds: list[float], counts: list[dict[str, Any]]) -> dict[str, float]:
    whole, *rows = seconds
    rows.sort()
    asked = sum(each["prompt_tokens"] for each in counts)
    cached = sum(each["cached_tokens"] for each in counts)
    busy = [each["busy_s"] for each in counts]
    return {
        "prefill_tokens": asked - cached,
        "saved": cached / asked,
        "makespan_s": whole,
        "row_p50_s": rows[len(rows) // 2],
        "row_p99_s": rows[int(len(rows) * 0.99)],
        "imbalance": max(busy) / statistics.mean(busy),
        "evicted_blocks": sum(each["evicted_blocks"] for each in counts),
        "completion_tokens": sum(each["completion_tokens"] for each in counts),
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval."""
    if len(values) < 2:
        return values[0], 0.0
    return statistics.mean(values), _T[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def report(work: Work, policy: str, runs: list[dict[str, float]], against: list[dict[str, float]]) -> None:
    row: dict[str, Any] = {"benchmark": "replicas", "workload": work.name, "policy": policy}
    row |= {name: float(f"{statistics.mean(run[name] for run in runs):.4g}") for name in runs[0]}
    for name in ("prefill_tokens", "makespan_s") if against else ():
        ratios = [one[name] / other[name] for one, other in zip(runs, against, strict=True)]
        mean, half = interval(ratios)
        row[f"{name}_to_round_robin"] = [round(mean, 3), round(half, 3)]
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 11))
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    for work in WORKS:
        if given.only not in work.name:
            continue
        runs: dict[str, list[dict[str, float]]] = {policy: [] for policy in work.policies}
        for seed in range(given.seeds):
            for policy, each in runs.items():
                each.append(run_virtually(simulated(work, policy, seed)))
        for policy, each in runs.items():
            report(work, policy, each, runs.get("round-robin", []))


if __name__ == "__main__":
    main()
