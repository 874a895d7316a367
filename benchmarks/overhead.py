"""What shoal itself costs a call: many concurrent calls of a function that answers at once, beside a bare gather.

python -m benchmarks.overhead [--rounds 3] [--counts 1000,10000,50000]

One JSON line for each way and number in flight: CPU us a call (all threads), the lowest of the rounds, each in a
process of its own. `floor` is asyncio.gather of as many coroutines that take one turn of the same event loop.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import shoal

ROOT = Path(__file__).resolve().parent.parent
FLOOR, UNCACHED, FILLING, CACHED = "floor", "uncached", "filling the cache", "from the cache"
_COMPLETION = shoal.Completion("The answer is 42.")


def reply(request: shoal.Request) -> str:
    """The scripted model."""
    return "The answer is 42."


async def _trivial(request: shoal.Request) -> shoal.Completion:
    await asyncio.sleep(0)
    return _COMPLETION


async def _cpu(
    call: Callable[[shoal.Request], Awaitable[shoal.Completion]], requests: Iterable[shoal.Request]
) -> float:
    """CPU seconds of all the calls at once, in all threads."""
    start = time.process_time()
    await asyncio.gather(*(call(request) for request in requests))
    return time.process_time() - start


def measure(way: str, count: int) -> float:
    """CPU us a call of `count` calls at once."""
    requests = _requests(count)
    with TemporaryDirectory() as folder:
        cache = Path(folder, "draws.sqlite") if way in (FILLING, CACHED) else None
        model = shoal.open_model(f"scripted/{__file__}:reply", cache=cache)
        call = _trivial if way == FLOOR else model
        shoal.run(_cpu(call, _requests(100, "to warm up")))
        if way == CACHED:
            shoal.run(_cpu(call, requests))
            requests = _requests(count)  # new objects: a hash once computed is kept in a request
        return shoal.run(_cpu(call, requests)) / count * 1e6


def _requests(count: int, which: str = "") -> list[shoal.Request]:
    return [shoal.Request.of(f"What is the answer to question {i}{which}?", temperature=0.7) for i in range(count)]


def lowest(way: str, count: int, rounds: int) -> float:
    command = [sys.executable, "-m", "benchmarks.overhead", "--measure", way, "--counts", str(count)]
    times = []
    for _ in range(rounds):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, cwd=ROOT)
        times.append(float(done.stdout))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", default="1000,10000,50000")
    parser.add_argument("--measure", help="measure one way in this process and print its CPU us a call")
    options = parser.parse_args()
    counts = [int(count) for count in options.counts.split(",")]
    if options.measure:
        print(measure(options.measure, counts[0]))
        return
    first: dict[str, float] = {}
    for count in counts:
        floor = 0.0
        for way in (FLOOR, UNCACHED, FILLING, CACHED):
            us = lowest(way, count, options.rounds)
            row: dict[str, object] = {"benchmark": "overhead", "way": way, "in_flight": count, "cpu_us": round(us, 1)}
            if way == FLOOR:
                floor = us
            else:
                row["over_floor_us"] = round(us - floor, 1)
            row["to_fewest_in_flight"] = round(us / first.setdefault(way, us), 2)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
