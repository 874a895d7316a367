"""`shoal serve` beside other proxies and no proxy at all, before the same server: requests/s, CPU a request, latency.

python -m benchmarks.proxies [--rounds 3] [--seconds 2] [--delays 0,50] [--connections 1,32,256]
                             [--workloads chat,stream,self_consistency] [--peers optillm,litellm] [--markdown]

Every proxy is one server process; all stand before one mock server and are asked by one client in C, in turns, so that
a busy moment of the machine befalls all of them. One JSON line for each proxy, workload, delay and number of
connections; README.md defines the columns.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

from benchmarks.load import NUMBER, cpu_s, load, shoal_serve, status_kib
from benchmarks.mock import Mock, mock_server
from benchmarks.peer_scripts import litellm_proxy, optillm_proxy
from benchmarks.peers import PEERS, Peer, Unavailable, python_of
from benchmarks.workload import SAMPLES, STORY

CHAT, STREAM, VOTE = "chat", "stream", "self_consistency"
EXPECTED = {CHAT: "The answer is", STREAM: "[DONE]", VOTE: '"choices"'}  # of every reply
OURS, DIRECT = "shoal", "direct"
Running = AbstractContextManager[tuple[int, int]]
Cell = tuple[str, str, float, int]  # proxy, workload, delay in ms, connections
Row = dict[str, Any]


class Proxy(NamedTuple):
    """How a proxy is started before a base URL, and what the model is called in each workload that it can do."""

    start: Callable[[str], Running]
    models: dict[str, str]


_LITELLM = Peer("litellm_proxy", "litellm_proxy", ("litellm[proxy]",))


def _optillm(base_url: str) -> Running:
    return optillm_proxy.proxy(base_url, optillm_proxy.LAUNCH, str(python_of(PEERS["optillm"])))


def _litellm(base_url: str) -> Running:
    return litellm_proxy.proxy(base_url, str(python_of(_LITELLM)))


PROXIES = {
    OURS: Proxy(shoal_serve, {CHAT: "m", STREAM: "m", VOTE: f"self_consistency(n={SAMPLES})@openai/m"}),
    "optillm": Proxy(_optillm, {CHAT: "none-m", STREAM: "none-m", VOTE: "majority_voting-m"}),
    "optillm, its self_consistency": Proxy(_optillm, {VOTE: "self_consistency-m"}),
    "litellm": Proxy(_litellm, {CHAT: "m", STREAM: "m"}),
}


class Started(NamedTuple):
    """A running proxy; the process is None where there is no proxy."""

    name: str
    port: int
    pid: int | None
    models: dict[str, str]


def body_of(proxy: Started, workload: str) -> Row:
    body: Row = {
        "model": proxy.models[workload],
        "messages": [{"role": "user", "content": f"Question {NUMBER}. {STORY}"}],
    }
    if workload == STREAM:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if workload == VOTE and proxy.pid is None:
        body["n"] = SAMPLES  # what a client without a proxy would ask for
    return body


@contextmanager
def running(names: list[str], mock: Mock, rows: dict[Cell, Row]) -> Iterator[list[Started]]:
    """No proxy and the proxies of these names, warmed up; those that cannot run have a row that says why."""
    with ExitStack() as stack:
        everywhere = [Started(DIRECT, mock.port, None, {CHAT: "m", STREAM: "m", VOTE: "m"})]
        for name in names:
            proxy = PROXIES[name]
            try:
                port, pid = stack.enter_context(proxy.start(mock.base_url))
            except (Unavailable, SystemExit, RuntimeError) as error:
                rows[name, "all", 0, 0] = {"unavailable": str(error)}
                continue
            started = Started(name, port, pid, proxy.models)
            for workload in proxy.models:  # what is imported and connected at first use
                load(port, body_of(started, workload), 8, 0.5, EXPECTED[workload])
            everywhere.append(started)
        yield everywhere


def measure(proxy: Started, workload: str, connections: int, seconds: float, mock: Mock) -> Row:
    """One turn of one proxy."""
    before, cpu = mock.stats()["requests"], cpu_s(proxy.pid) if proxy.pid else 0.0
    seen = load(proxy.port, body_of(proxy, workload), connections, seconds, EXPECTED[workload])
    done = max(seen["requests"], 1)
    if proxy.pid:
        seen |= {"cpu_us": (cpu_s(proxy.pid) - cpu) / done * 1e6, "rss_mb": status_kib(proxy.pid, "VmHWM") / 1024}
    return seen | {
        "requests_per_s": seen["requests"] / seen["wall_s"],
        "wire_per_request": (mock.stats()["requests"] - before) / done,
    }


def summary(turns: list[Row], direct: list[Row]) -> Row:
    """The rounds of one cell as a row: the best rate and CPU time, the median latencies, all the errors.

    `direct` are the turns of the same rounds without a proxy: what is added is the median of the differences.
    """
    row: Row = {
        "requests": sum(turn["requests"] for turn in turns),
        "errors": sum(turn["errors"] for turn in turns),
        "requests_per_s": round(max(turn["requests_per_s"] for turn in turns), 1),
    }
    for name in ("p50_ms", "p99_ms", "first_p50_ms"):
        row[name] = round(median(turn[name] for turn in turns), 2)
    if "cpu_us" in turns[0]:
        row["cpu_us"] = round(min(turn["cpu_us"] for turn in turns), 1)
        row["cpu_us_worst"] = round(max(turn["cpu_us"] for turn in turns), 1)
        row["rss_mb"] = round(max(turn["rss_mb"] for turn in turns))
        for name in ("p50_ms", "p99_ms"):
            added = [turn[name] - bare[name] for turn, bare in zip(turns, direct, strict=True)]
            row[f"added_{name}"] = round(median(added), 2)
    row["wire_per_request"] = round(median(turn["wire_per_request"] for turn in turns), 2)
    if error := next((turn["first_error"] for turn in turns if turn["errors"]), ""):
        row["first_error"] = error
    return row


def add_ratios(rows: dict[Cell, Row]) -> None:
    for (name, *where), row in rows.items():
        ours = rows.get((OURS, *where))  # type: ignore[arg-type]
        if name == OURS or not ours or "cpu_us" not in ours or "requests_per_s" not in row:
            continue
        row["rps_to_ours"] = round(row["requests_per_s"] / max(ours["requests_per_s"], 0.1), 4)
        if "cpu_us" in row:
            row["cpu_to_ours"] = round(row["cpu_us"] / ours["cpu_us"], 1)


def rows_of(delay: float, options: argparse.Namespace) -> dict[Cell, Row]:
    """All proxies, workloads and numbers of connections before a server with this delay."""
    rows: dict[Cell, Row] = {}
    turns: dict[Cell, list[Row]] = {}
    names = [name for name in PROXIES if name == OURS or name.partition(",")[0] in options.peers.split(",")]
    with mock_server(delay_ms=delay) as mock, running(names, mock, rows) as proxies:
        for _ in range(options.rounds):
            for workload in options.workloads.split(","):
                for connections in map(int, options.connections.split(",")):
                    for proxy in proxies:
                        if workload in proxy.models:
                            seen = measure(proxy, workload, connections, options.seconds, mock)
                            turns.setdefault((proxy.name, workload, delay, connections), []).append(seen)
    for cell, seen_in_turn in turns.items():
        rows[cell] = summary(seen_in_turn, turns[DIRECT, *cell[1:]])
    add_ratios(rows)
    return rows


def markdown(rows: dict[Cell, Row]) -> str:
    columns = ("requests_per_s", "cpu_us", "cpu_to_ours", "p50_ms", "p99_ms", "added_p50_ms", "added_p99_ms", "rss_mb")
    lines = [
        f"| workload | delay, ms | connections | proxy | {' | '.join(columns)} | errors | wire |",
        "|---" * (len(columns) + 6) + "|",
    ]
    for (name, workload, delay, connections), row in sorted(rows.items(), key=lambda item: item[0][1:]):
        cells = [str(row.get(column, "")) for column in (*columns, "errors", "wire_per_request")]
        lines.append(f"| {workload} | {delay:g} | {connections} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--delays", default="0,50", help="of the mock server, in ms")
    parser.add_argument("--connections", default="1,32,256")
    parser.add_argument("--workloads", default=f"{CHAT},{STREAM},{VOTE}")
    parser.add_argument("--peers", default="optillm,litellm", help="names, separated by commas; '' for none")
    parser.add_argument("--markdown", action="store_true", help="add the table of README.md")
    options = parser.parse_args()
    rows: dict[Cell, Row] = {}
    for delay in map(float, options.delays.split(",")):
        found = rows_of(delay, options)
        rows |= found
        for (name, workload, delay_ms, connections), row in found.items():
            cell = {"proxy": name, "workload": workload, "delay_ms": delay_ms, "connections": connections}
            print(json.dumps({"benchmark": "proxies", **cell, **row}), flush=True)
    if options.markdown:
        print(markdown(rows))


if __name__ == "__main__":
    main()
