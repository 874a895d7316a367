"""The work every client is given, and how one client's run is measured; standard library only, for every environment.

A client is a program called with a base URL and the name of a workload, which does the work inside `measured` and so
prints one JSON line: wall_s and cpu_s from the making of a client to the last answer, after one question put to another
that does not count; rss_mb, its processes' peak; wire_requests, as the server counted them.
"""

import json
import re
import resource
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

COMPLETIONS = "completions"  # CALLS questions, one answer each
SELF_CONSISTENCY = "self_consistency"  # ITEMS questions, the majority of SAMPLES answers each
WORKLOADS = (COMPLETIONS, SELF_CONSISTENCY)
CALLS, ITEMS, SAMPLES = 1000, 100, 8
CHOICES = {COMPLETIONS: CALLS, SELF_CONSISTENCY: ITEMS * SAMPLES}

STORY = (
    "A harbour master notes every boat that comes in and every boat that goes out. On the first morning there are "
    "twelve boats at the quay, and by noon a third of them have left for the fishing grounds, each with a crew of "
    "four. In the afternoon five boats return, two of them towing a smaller one, and the harbour master counts again "
    "before the lamps are lit. Say how you reason, step by step, and give the final number in the last sentence."
)
_ANSWER = re.compile(r"The answer is (\d+)\.")


def questions(workload: str) -> list[str]:
    """The workload's prompts, all different, about 500 bytes each."""
    return [f"Question {i}. {STORY}" for i in range(CALLS if workload == COMPLETIONS else ITEMS)]


def majority(texts: Iterable[str]) -> str:
    """Self-consistency for clients that have none: the final answer most of the texts agree on."""
    return Counter(match[1] for text in texts if (match := _ANSWER.search(text))).most_common(1)[0][0]


def measured(
    workload: str, base_url: str, work: Callable[[list[str]], Sequence[str]], pids: Sequence[int] = ()
) -> None:
    """Do the work and print what it took; `pids` are further processes whose CPU time counts."""
    _allow_connections()
    prompts = questions(workload)
    work(prompts[:1])  # what is imported or built at first use
    before, cpu, start = _wire_requests(base_url), _cpu(pids), time.perf_counter()
    answers = work(prompts)
    wall, cpu = time.perf_counter() - start, _cpu(pids) - cpu
    if len(answers) != len(prompts) or not all(re.search(r"\d", answer) for answer in answers):
        raise SystemExit(f"{len(prompts)} questions, but these answers: {answers[:3]}...")
    result = {
        "wall_s": round(wall, 4),
        "cpu_s": round(cpu, 4),
        "rss_mb": sum(map(_peak_mb, ["self", *map(str, pids)])),
        "wire_requests": _wire_requests(base_url) - before,
    }
    print(json.dumps(result), flush=True)


def arguments() -> tuple[str, str]:
    """The base URL and the workload that a client is called with."""
    if len(sys.argv) != 3 or sys.argv[2] not in WORKLOADS:
        raise SystemExit(f"usage: {sys.argv[0]} BASE_URL {'|'.join(WORKLOADS)}")
    return sys.argv[1], sys.argv[2]


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds of this process, all its threads, and the given ones."""
    return time.process_time() + sum(map(process_cpu, pids))


def process_cpu(pid: int) -> float:
    """User and system CPU seconds of another process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _peak_mb(process: str) -> int:
    lines = Path("/proc", process, "status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _wire_requests(base_url: str) -> int:
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats", timeout=10) as reply:
        count: int = json.load(reply)["requests"]
    return count


def _allow_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 8192:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
