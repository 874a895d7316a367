"""What each technique costs at its defaults, beside optillm's: requests, completions and sequential steps.

python -m benchmarks.technique_costs [--rounds 3] [--techniques best_of_n,moa] [--no-peers] [--markdown]

Every technique is asked one question, alone, on a server that takes the same time for every reply and counts what
reaches it (technique_mock.py). One JSON line a technique and system; README.md defines the columns.
"""

import argparse
import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.peers import PEERS, ROOT, Unavailable, python_of
from benchmarks.technique_mock import CODING, EXAMPLES, QUESTION, WITH_EXAMPLES, Mock, technique_mock

import shoal
from shoal.techniques import TECHNIQUES, Entry, find
from shoal.techniques.opening import bases

PEER = "optillm 0.4.0"
# What optillm's proxy can do without what is not installed here (torch, a notebook, a browser).
APPROACHES = (
    *("mcts", "bon", "moa", "rto", "z3", "self_consistency", "pvg", "rstar"),
    *("cot_reflection", "plansearch", "leap", "re2", "cepo", "mars", "majority_voting", "genselect", "deepthink"),
)
# Techniques that need another question to take their usual path, by any of their names.
QUESTIONS = {"rto": CODING, "plansearch": CODING, "leap": WITH_EXAMPLES}
Row = dict[str, Any]


def question_for(names: Iterable[str]) -> str:
    return next((QUESTIONS[name] for name in names if name in QUESTIONS), QUESTION)


def options_for(entry: Entry) -> Row:
    """The defaults, and the examples that a technique learns from; optillm reads them out of the question."""
    return {"examples": EXAMPLES} if "examples" in entry.options else {}


async def ours(mock: Mock, slugs: list[str]) -> list[Row]:
    model = shoal.open_model("openai/m", base_url=mock.base_url, api_key="x", cache=None)
    await model(shoal.Request.of("Hi"))  # what is imported and connected at first use
    rows = []
    for slug in slugs:
        entry = TECHNIQUES[slug]
        request = shoal.Request.of(QUESTION if "examples" in entry.options else question_for((slug, *entry.aliases)))
        mock.reset()
        row: Row = {"technique": slug, "system": "shoal"}
        start = time.perf_counter()
        try:
            async with asyncio.timeout(120):
                done = await shoal.apply(entry.function, model, **options_for(entry))(request)
            row |= {"wall_s": round(time.perf_counter() - start, 4), "reported_tokens": done.usage.completion_tokens}
            row["answer"] = done.text[-60:]
        except Exception as error:
            row |= {"wall_s": round(time.perf_counter() - start, 4), "error": f"{type(error).__name__}: {error}"[:200]}
        row |= mock.counts()._asdict()
        rows.append(row)
    for base in bases(model):
        await base.aclose()
    return rows


def theirs(mock: Mock, approaches: list[str]) -> list[Row]:
    questions = {approach: question_for((approach,)) for approach in approaches}
    command = [str(python_of(PEERS["optillm"])), "-m", "benchmarks.peer_scripts.optillm_techniques"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, mock.base_url, json.dumps(questions)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
        cwd=ROOT,
    )
    if done.returncode:
        raise Unavailable(f"failed: {done.stderr.strip()[-300:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [{"technique": slug_of(row["approach"]), "system": PEER, **row} for row in rows]


def slug_of(approach: str) -> str | None:
    """The technique of ours that goes by this name too."""
    entry = find(approach)
    return next((slug for slug, known in TECHNIQUES.items() if known is entry), None)


def catalogued(entry: Entry) -> Row:
    """What the catalogue says of a technique at its defaults: the most, and the fewest calls where replies decide."""
    cost = entry.cost(**options_for(entry))
    return {"calls_at_least": cost.fewest, "calls_at_most": cost.calls, "steps_at_most": cost.critical_path}


def as_catalogued(row: Row) -> bool:
    """Whether the server saw as many calls and steps as the catalogue says."""
    exact = row["calls_at_least"] == row["calls_at_most"]
    steps: bool = row["steps"] == row["steps_at_most"] if exact else row["steps"] <= row["steps_at_most"]
    calls: bool = row["calls_at_least"] <= row["completions"] <= row["calls_at_most"]
    return steps and calls


def quickest(rounds: list[list[Row]]) -> list[Row]:
    """Each row as it was in the round in which it took the least time."""
    return [min(rows, key=lambda row: ("error" in row, row["wall_s"])) for rows in zip(*rounds, strict=True)]


def finished(row: Row, delay_s: float) -> Row:
    if "wall_s" in row:
        row["wall_to_delay"] = round(row["wall_s"] / delay_s, 2)
    if row["system"] == "shoal":
        row |= catalogued(TECHNIQUES[row["technique"]])
        row["as_catalogued"] = "error" not in row and as_catalogued(row)
    return {"benchmark": "technique_costs", **row}


def measure(slugs: list[str], approaches: list[str], delay_ms: float, rounds: int) -> list[Row]:
    def repeated(run: Callable[[Mock], list[Row]]) -> list[Row]:
        seen = []
        for _ in range(rounds):
            with technique_mock(delay_ms) as mock:
                seen.append(run(mock))
        return quickest(seen)

    rows = repeated(lambda mock: shoal.run(ours(mock, slugs)))
    if approaches:
        try:
            rows += repeated(lambda mock: theirs(mock, approaches))
        except (Unavailable, subprocess.TimeoutExpired) as error:
            names: list[Row] = [{"technique": slug_of(name), "system": PEER, "approach": name} for name in approaches]
            rows += [row | {"unavailable": str(error)} for row in names]
    return [finished(row, delay_ms / 1000) for row in rows]


def markdown(rows: list[Row]) -> str:
    """One line a technique, optillm's beside ours; several of theirs may answer to one of ours, and some to none."""
    columns = "requests, completions, at once, steps, wall, tokens told"
    lines = [
        f"| technique | shoal: {columns} | calls, steps as catalogued | optillm | {columns} |",
        "|---|---|---|---|---|",
    ]
    mine = {row["technique"]: row for row in rows if row["system"] == "shoal"}
    peers = [row for row in rows if row["system"] != "shoal"]
    for slug, row in mine.items():
        same = [_peer(peer) for peer in peers if peer["technique"] == slug]
        lines += [f"| {slug} | {_shown(row)} | {_promise(row)} | {peer} |" for peer in same or [" | "]]
    lines += [f"| | | | {_peer(peer)} |" for peer in peers if peer["technique"] not in mine]
    return "\n".join(lines)


def _peer(row: Row) -> str:
    return f"`{row['approach']}` | {_shown(row)}"


def _shown(row: Row) -> str:
    if "unavailable" in row:
        return "unavailable"
    figures = [row["requests"], row["completions"], row["max_concurrent"], row["steps"], row["wall_to_delay"]]
    told = "failed: " + row["error"] if "error" in row else f"{row['reported_tokens'] / row['completion_tokens']:.0%}"
    return ", ".join(map(str, [*figures, told]))


def _promise(row: Row) -> str:
    least, most = row["calls_at_least"], row["calls_at_most"]
    calls = str(most) if least == most else f"{least} to {most}"
    return f"{calls}, {row['steps_at_most']}: {'yes' if row['as_catalogued'] else 'no'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--techniques", default=",".join(TECHNIQUES), help="slugs, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="leave optillm out and install nothing")
    parser.add_argument("--markdown", action="store_true", help="a table after the JSON lines")
    options = parser.parse_args()
    slugs = options.techniques.split(",")
    if unknown := [slug for slug in slugs if slug not in TECHNIQUES]:
        parser.error(f"unknown techniques {', '.join(unknown)}; known: {', '.join(TECHNIQUES)}")
    approaches = [] if options.no_peers else [a for a in APPROACHES if slug_of(a) in (None, *slugs)]
    rows = measure(slugs, approaches, options.delay_ms, options.rounds)
    for row in rows:
        print(json.dumps(row), flush=True)
    if options.markdown:
        print(markdown(rows))


if __name__ == "__main__":
    main()
