"""shoal beside the bare client and other systems, on a server that takes 50 ms: wall time, CPU time, wire requests.

python -m benchmarks.clients [--rounds 5] [--peer-rounds 1] [--peers openai,litellm] [--delay-ms 50]

Every run is a process of its own against a fresh server; the clients take turns, so that a busy moment of the machine
befalls all of them, and the lowest wall and CPU time of the rounds count. One JSON line a row; README.md defines each
ratio.
"""

import argparse
import json
import sys
from typing import Any

from benchmarks.mock import mock_server
from benchmarks.peers import PEERS, Unavailable, run_client, run_peer
from benchmarks.workload import CHOICES, COMPLETIONS, SELF_CONSISTENCY, WORKLOADS

OURS, FLOOR, FLOOR_SEPARATE = "shoal", "floor", "floor, a request for each draw"
Rows = dict[tuple[str, str], dict[str, Any]]


def run_one(client: str, base_url: str, workload: str) -> dict[str, Any]:
    if client == OURS:
        return run_client([sys.executable, "-m", "benchmarks.ours"], base_url, workload)
    if client in (FLOOR, FLOOR_SEPARATE):
        variables = {"SEPARATE": "1"} if client == FLOOR_SEPARATE else {}
        return run_client([sys.executable, "-m", "benchmarks.floor"], base_url, workload, **variables)
    return run_peer(client, base_url, workload)


def run_round(rows: Rows, clients: list[str], delay_ms: float) -> None:
    """Every client once on every workload; each row keeps the lowest of what it saw."""
    for workload in WORKLOADS:
        for client in clients:
            if client == FLOOR_SEPARATE and workload != SELF_CONSISTENCY:
                continue
            row = rows.setdefault((client, workload), {})
            if "unavailable" in row:
                continue
            try:
                with mock_server(delay_ms=delay_ms) as mock:
                    seen = run_one(client, mock.base_url, workload)
            except Unavailable as error:
                row["unavailable"] = str(error)
                continue
            for name, value in seen.items():
                row[name] = min(value, row.get(name, value))


def add_ratios(rows: Rows, delay_ms: float) -> None:
    for (client, workload), row in rows.items():
        ours = rows[OURS, workload]
        if "unavailable" in row:
            continue
        row["cpu_us_per_choice"] = round(row["cpu_s"] * 1e6 / CHOICES[workload], 1)
        if client == OURS:
            floors = [rows[name, workload] for name in (FLOOR, FLOOR_SEPARATE) if (name, workload) in rows]
            row["cpu_to_floor"] = round(row["cpu_s"] / rows[FLOOR, workload]["cpu_s"], 2)
            if (FLOOR_SEPARATE, workload) in rows:
                row["cpu_to_separate_floor"] = round(row["cpu_s"] / rows[FLOOR_SEPARATE, workload]["cpu_s"], 2)
            row["wall_to_floor"] = round(row["wall_s"] / min(floor["wall_s"] for floor in floors), 2)
            row["wall_to_critical_path"] = round(row["wall_s"] / (delay_ms / 1000), 2)
        elif "unavailable" not in ours:
            row["wall_to_ours"] = round(row["wall_s"] / ours["wall_s"], 2)
            row["cpu_to_ours"] = round(row["cpu_s"] / ours["cpu_s"], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="names, separated by commas; '' for none")
    parser.add_argument("--delay-ms", type=float, default=50)
    options = parser.parse_args()
    rows: Rows = {}
    for round_ in range(options.rounds):
        peers = [name for name in options.peers.split(",") if name] if round_ < options.peer_rounds else []
        run_round(rows, [OURS, FLOOR, FLOOR_SEPARATE, *peers], options.delay_ms)
    add_ratios(rows, options.delay_ms)
    for workload in (COMPLETIONS, SELF_CONSISTENCY):
        for (client, its_workload), row in rows.items():
            if its_workload == workload:
                print(json.dumps({"benchmark": "clients", "client": client, "workload": workload, **row}), flush=True)


if __name__ == "__main__":
    main()
