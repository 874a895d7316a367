"""What dies half-way, and what comes of it: each run beside the same command undisturbed, in one process, asked live.

python -m benchmarks.faults [--rows 60] [--scale 0.3]    about a minute; needs shoal[ray]

- `ray`: shoal.ray over two actors, asking a router over three replicas, each a process: one replica and one actor are
  killed by their pids, half-way through the draws
- `batch api`: `shoal run --batch-api`; the endpoint dies when half of the first wave is carried out and comes back on
  its port, and the run itself is killed when its second wave was just made
- `shards`: four processes of `shoal run --shard`, one killed half-way and run again, and a merge

Each row is a vote over three answers in two turns, whose replies depend on the messages and on the draw's seed alone.
One JSON line each: whether the output is the undisturbed run's, byte for byte (of Ray, which promises no order: each
row's result); rows lost and doubled; draws, those asked for more than once and those carried out, which is to say paid,
more than once; and those that were asked for again although they were on disk when their process was killed.
"""

import argparse
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.replica_server import Server, draw_id, servers
from benchmarks.replica_work import alone
from tests.backends.batches_process import BatchesProcess
from tests.backends.faulty_batches import Order, paid

from shoal.batch.journal import Journal
from shoal.runtime.types import SamplingParams

REPLICAS, SHARDS, LOST, SEED = 3, 4, 2, 7
TECHNIQUE = "self_consistency(n=3)@two_turn"
DRAWS = 6  # of a row
_PATIENCE_S = 120.0


class Told(NamedTuple):
    """A replica was asked for a draw, or has carried it out, at that time of the machine's clock."""

    what: str
    draw: str
    when: float


class Ledger:
    """What the replicas were asked, as they tell it."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self._more = threading.Condition()

    def hear(self, said: list[str]) -> None:
        what, draw, when = said
        with self._more:
            self.told.append(Told(what, draw, float(when)))
            self._more.notify_all()

    def until(self, come: Callable[[], bool]) -> None:
        """Wait for something that can have come whenever a draw is told of."""
        with self._more:
            if not self._more.wait_for(come, _PATIENCE_S):
                raise TimeoutError("what a fault was waiting for did not come")

    def draws(self, what: str) -> Counter[str]:
        """How often this was told of each draw."""
        return Counter(told.draw for told in list(self.told) if told.what == what)

    def asked_since(self, when: float) -> set[str]:
        """Draws asked for after that time."""
        return {told.draw for told in self.told if told.what == "asked" and told.when > when}


class Run(NamedTuple):
    """Its output, how often each draw was asked for and carried out, and its seconds.

    `kept` are the draws that were on disk when their process was killed, `kept_asked_again` those asked for after that.
    """

    output: list[bytes]
    asked: Counter[str]
    done: Counter[str]
    seconds: float
    kept: int = 0
    kept_asked_again: int = 0


def row(name: str, whole: Run, run: Run) -> dict[str, Any]:
    """What the benchmark says of a run beside the undisturbed one."""
    rows, there = (Counter(json.loads(line)["input"]["q"] for line in each.output) for each in (whole, run))
    return {
        "benchmark": "faults",
        "fault": name,
        "rows": len(whole.output),
        "undisturbed": digest(whole.output),
        "disturbed": digest(run.output),
        "equal": run.output == whole.output,
        "lost": (rows - there).total(),
        "doubled": (there - rows).total(),
        "draws": len(whole.done),
        "other_draws": len(run.asked.keys() ^ whole.asked.keys()),
        "asked_again": run.asked.total() - len(run.asked),
        "paid_twice": run.done.total() - len(run.done),
        "kept": run.kept,
        "kept_asked_again": run.kept_asked_again,
        "undisturbed_s": round(whole.seconds, 1),
        "disturbed_s": round(run.seconds, 1),
    }


def digest(lines: list[bytes]) -> str:
    return blake2b(b"\n".join(lines), digest_size=6).hexdigest()


# What is asked, of whom


def write_rows(place: Path, rows: int) -> list[str]:
    texts = [request.text for request in alone(rows, 40)(Random(SEED))]
    (place / "rows.jsonl").write_text("".join(json.dumps({"q": text}) + "\n" for text in texts))
    return texts


Process = subprocess.Popen[bytes]


class Commands(ExitStack):
    """`shoal` as processes in a directory, which end with the context at the latest."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def run(self, run: str, model: str, *more: str) -> Process:
        asked = ["rows.jsonl", "-p", "{q}", "-m", model, "-t", TECHNIQUE, "--seed", str(SEED), "--no-cache", "--quiet"]
        return self.begin("run", *asked, "--run-dir", run, *more)

    def begin(self, *arguments: str) -> Process:
        known = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "shoal", *arguments]
        process = self.enter_context(subprocess.Popen(command, cwd=self.place, env=known, stdout=subprocess.DEVNULL))
        self.callback(process.kill)
        return process


def ended(process: "subprocess.Popen[bytes]") -> None:
    if code := process.wait(_PATIENCE_S):
        raise RuntimeError(f"{process.args} ended with {code}")


@contextmanager
def replicas(place: Path, scale: float, ledger: Ledger) -> Iterator[list[Server]]:
    """Replicas in processes of their own, and a shoal.toml in which they are the model `small`."""
    with servers([1.0] * REPLICAS, scale, ledger.hear) as started:
        tables = [
            f'[endpoints.r{i}]\nbase_url = "{each.base_url}"\nmax_in_flight = 4' for i, each in enumerate(started)
        ]
        names = ", ".join(f'"r{i}/m"' for i in range(len(started)))
        (place / "shoal.toml").write_text("\n".join([*tables, f"[models.small]\nendpoints = [{names}]\n"]))
        yield started


def undisturbed(place: Path, scale: float) -> Run:
    """The same command in one process, before replicas that live."""
    ledger, begun = Ledger(), time.monotonic()
    with replicas(place, scale, ledger), Commands(place) as commands:
        ended(commands.run("whole", "small"))
        seconds = time.monotonic() - begun
    return Run(output(place / "whole"), ledger.draws("asked"), ledger.draws("done"), seconds)


def output(run: Path) -> list[bytes]:
    return (run / "output.jsonl").read_bytes().splitlines()


def kept(journal: Path) -> set[str]:
    """The draws in the journal of a process that is dead."""
    with closing(Journal(journal, read_only=True)) as opened:
        return {draw_id(draw.completion.text) for draw in opened.kept_draws()}


def count(journal: Path) -> int:
    """The draws in the journal of a process at work."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
        try:
            return int(reader.execute("SELECT count(*) FROM draw").fetchone()[0])
        except sqlite3.OperationalError:  # it is being made
            return 0


# What dies


def by_ray(ray: Any, place: Path, scale: float, texts: list[str]) -> Run:
    """One replica and one actor are killed half-way. `ray` is connected to a cluster."""
    import shoal.ray

    ledger, begun = Ledger(), time.monotonic()
    dataset = ray.data.from_items([{"q": text} for text in texts], override_num_blocks=2)
    asked: dict[str, Any] = {"template": "{q}", "params": SamplingParams(seed=SEED), "cache": False}
    asked |= {"config": place / "shoal.toml", "run_dir": place / "ray"}
    rows: list[dict[str, Any]] = []

    def workers() -> list[Path]:
        return [found for found in (place / "ray").glob("worker-*/journal.sqlite") if count(found)]

    def half() -> bool:
        return len(ledger.draws("done")) >= DRAWS * len(texts) // 2 and bool(workers())

    with replicas(place, scale, ledger) as started:
        mapped = shoal.ray.map_program(dataset, f"{TECHNIQUE}@small", **asked, concurrency=2, batch_size=4, batches=2)
        work = threading.Thread(target=lambda: rows.extend(mapped.take_all()))
        work.start()
        ledger.until(half)
        os.kill(started[0].pid, signal.SIGKILL)
        victim = workers()[0]
        os.kill(int(victim.parent.name.split("-")[-2]), signal.SIGKILL)
        killed = time.monotonic()
        work.join(_PATIENCE_S)
        seconds = time.monotonic() - begun
    saved = kept(victim)
    again = len(saved & ledger.asked_since(killed))
    return Run(results(rows), ledger.draws("asked"), ledger.draws("done"), seconds, len(saved), again)


def results(rows: Iterable[dict[str, Any]]) -> list[bytes]:
    """What came of each row, in the order of their texts."""
    names = ("output", "answer", "finish_reason", "prompt_tokens", "completion_tokens", "calls", "error")
    found = sorted((row["q"], [row[name] for name in names]) for row in rows)
    return [json.dumps({"input": {"q": text}, "result": result}).encode() for text, result in found]


def as_results(lines: list[bytes]) -> list[bytes]:
    """The same of a run's output."""
    records = [json.loads(line) for line in lines]
    return results(
        record["input"] | record["usage"] | {"error": None, "finish_reason": None} | record for record in records
    )


def by_shards(place: Path, scale: float, rows: int) -> Run:
    """One of the processes is killed half-way, and run again; then all are merged."""
    ledger, begun = Ledger(), time.monotonic()
    lost = place / "shards" / f"shard-{LOST}-of-{SHARDS}" / "journal.sqlite"

    def half() -> bool:
        return len(ledger.draws("done")) >= DRAWS * rows // 2 and lost.exists() and count(lost) > 0

    with replicas(place, scale, ledger), Commands(place) as commands:

        def shard(index: int) -> Process:
            return commands.run("shards", "small", "--shard", f"{index}/{SHARDS}")

        processes = [shard(index) for index in range(SHARDS)]
        ledger.until(half)
        processes[LOST].kill()
        killed = time.monotonic()
        if processes.pop(LOST).wait() != -signal.SIGKILL:
            raise RuntimeError("the shard had ended before it was killed")
        saved = kept(lost)
        ended(shard(LOST))
        for process in processes:
            ended(process)
        ended(commands.begin("merge", "shards"))
        seconds = time.monotonic() - begun
    again = len(saved & ledger.asked_since(killed))
    return Run(output(place / "shards"), ledger.draws("asked"), ledger.draws("done"), seconds, len(saved), again)


def by_batch_api(place: Path, rows: int) -> tuple[Run, Run]:
    """Undisturbed and live, by the same server; then the server dies in the first wave, and the run in the second."""
    server = BatchesProcess(place / "provider", "benchmarks.replica_replies:replied")
    with Commands(place) as commands:
        commands.callback(server.kill)
        server.start()
        (place / "shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{server.base_url}"\napi_key = "key"\n')
        begun = time.monotonic()
        ended(commands.run("live", "lab/m"))
        asked = paid_draws(place, by_batch=False)
        whole = Run(output(place / "live"), asked, asked, time.monotonic() - begun)
        begun = time.monotonic()
        server.do("order", Order(done=DRAWS * rows // 4))  # half of the first turns
        server.do("disturb", "GET /v1/batches/{id}", "", "die")
        server.do("disturb", "POST /v1/batches", "", "hold-after")
        process = commands.run("waves", "lab/m", "--batch-api")
        server.died()
        half = paid_draws(place, by_batch=True).total()
        server.start()
        server.do("until", "POST /v1/batches", 2)
        process.kill()
        if process.wait() != -signal.SIGKILL or half != DRAWS * rows // 4:
            raise RuntimeError("the endpoint or the run did not die half-way")
        server.do("let_go")
        ended(commands.run("waves", "lab/m", "--batch-api"))
        asked = paid_draws(place, by_batch=True)
        return whole, Run(output(place / "waves"), asked, asked, time.monotonic() - begun)


def paid_draws(place: Path, *, by_batch: bool) -> Counter[str]:
    """The draws that the provider carried out, live or in batches."""
    found: Counter[str] = Counter()
    for each in paid(place / "provider"):
        if (each.batch is not None) == by_batch:
            found.update(draw_id(choice["message"]["content"]) for choice in each.reply["choices"])
    return found


@contextmanager
def cluster(place: Path) -> Iterator[Any]:
    """Ray on loopback, with three CPUs to give away."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    os.environ |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    import ray

    ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False, _temp_dir=str(place))
    try:
        yield ray
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--scale", type=float, default=0.3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # Ray's, of itself
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp") as scratch:  # the names of Ray's sockets are short
        place = Path(scratch)
        texts = write_rows(place, given.rows)
        whole = undisturbed(place, given.scale)
        with cluster(place / "cluster") as ray:
            run = by_ray(ray, place, given.scale, texts)
        print(json.dumps(row("ray", whole._replace(output=as_results(whole.output)), run)), flush=True)
        print(json.dumps(row("shards", whole, by_shards(place, given.scale, given.rows))), flush=True)
        print(json.dumps(row("batch api", *by_batch_api(place, given.rows))), flush=True)


if __name__ == "__main__":
    main()
