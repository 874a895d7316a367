"""Daft on Ray for real: two nodes on this machine; a worker's process, Daft's own or a whole node is killed."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scale.conftest import Script, kept_by

import shoal

pytestmark = pytest.mark.timeout(400)
TEXTS = [f"both {'x' * (i % 11)} {i}" for i in range(200)]
# Nodes in a process of their own: this one may be in another cluster. It adds a node for each line it reads.
NODES = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()
options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
try:
    for number, _ in enumerate(sys.stdin):
        node = cluster.add_node(**options, **({} if number else {"temp_dir": sys.argv[1]}))  # queries are the first's
        print("node", cluster.address, node.all_processes["raylet"][0].process.pid, flush=True)
finally:
    cluster.shutdown()
"""
QUERY = """
import json, os, sys
import daft, shoal.daft

here = os.getcwd()  # the workers were begun elsewhere

address, model, options = sys.argv[1], "self_consistency(n=3)@" + sys.argv[2], json.loads(sys.argv[3])
daft.set_runner_ray(address)
ask = shoal.daft.program(model, template="{q}", run_dir="kept", cache=False, max_in_flight=4, batch_size=10, **options)
frame = daft.read_parquet(f"{here}/questions/*.parquet")
frame = frame.with_column("result", ask(frame["q"]))
if sys.argv[4] == "files":
    done = frame.write_parquet(f"{here}/out").to_pydict()["path"]
else:  # in the memory of nodes, in parts too large to travel with the word that they are done
    done = frame.with_column("long", frame["q"].rpad(40_000, "-")).to_pydict()
with open("done.json", "w") as file:
    json.dump(done, file)
"""


class Nodes:
    """The nodes of a cluster: its address, and the process that each node ends with."""

    def __init__(self, host: subprocess.Popen[str]) -> None:
        self._host = host
        self.raylets: list[int] = []

    def add(self) -> None:
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        print("another", file=self._host.stdin, flush=True)
        for line in self._host.stdout:
            if line.startswith("node "):
                _, self.address, raylet = line.split()
                self.raylets.append(int(raylet))
                return
        raise AssertionError("the cluster did not begin")

    def kill_last(self) -> None:
        """All at once, as where the power fails."""
        raylet = self.raylets.pop()
        everything = [pid for pid in (int(place.name) for place in Path("/proc").glob("[0-9]*")) if is_of(pid, raylet)]
        for pid in [raylet, *everything]:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    pytest.importorskip("daft")
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the names of sockets in it must be short
    environment = pytest.MonkeyPatch()
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes one into the home directory
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what keeps Ray on loopback, on Linux too
        "DO_NOT_TRACK": "true",
        "DAFT_ANALYTICS_ENABLED": "0",
        "DAFT_PROGRESS_BAR": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }.items():
        environment.setenv(name, value)
    command = [sys.executable, "-c", NODES, place]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as host:
        try:
            yield Nodes(host)
        finally:
            host.communicate()
            environment.undo()
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    while len(nodes.raylets) < 2:
        nodes.add()
    return nodes


@pytest.fixture(autouse=True)
def questions(tmp_path: Path) -> None:
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow").table
    (tmp_path / "questions").mkdir()
    for part in range(8):
        parquet.write_table(table({"q": TEXTS[part::8]}), tmp_path / "questions" / f"{part}.parquet")


@contextlib.contextmanager
def query(nodes: Nodes, script: Script, into: str = "files", **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", QUERY, nodes.address, script.spec, json.dumps(options), into]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def half_way(process: subprocess.Popen[str], script: Script, draws: int = 200) -> None:
    while len(script.asked()) < draws:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(process.wait(0.02), process.communicate())


def is_of(pid: int, ancestor: int) -> bool:
    """Whether a process was begun by another, or by one that was."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while pid > 1 and pid != ancestor:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


def facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["q"]: (row["result"]["output"], row["result"]["calls"], row["result"]["error"]) for row in rows}


def of_map(script: Script) -> dict[str, Any]:
    wanted = shoal.map("self_consistency(n=3)@" + script.spec, [{"q": text} for text in TEXTS], template="{q}")
    return {r.input["q"]: (r.output, r.usage.calls, r.error) for r in wanted}


def kill(what: str, nodes: Nodes, script: Script) -> int:
    """Kill it, half-way; the process that asked and is gone with it."""
    victim = script.asked()[-1][0]
    if what == "node":
        victim = next(pid for pid, _ in reversed(script.asked()) if is_of(pid, nodes.raylets[-1]))
        nodes.kill_last()
    else:
        os.kill(victim, signal.SIGKILL)
    return victim


@pytest.mark.parametrize(
    ("options", "what"),
    [({}, "Daft's process"), ({}, "node"), ({"processes": 1}, "process"), ({"processes": 1}, "node")],
)
def test_what_dies_half_way_is_made_up_for(two: Nodes, script: Script, options: dict[str, Any], what: str) -> None:
    with query(two, script, **options) as process:
        half_way(process, script)
        victim = kill(what, two, script)
        _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    asked = script.asked()
    files = json.loads(Path("done.json").read_text())
    written = pytest.importorskip("pyarrow.dataset").dataset(files).to_table().to_pylist()
    assert sorted(row["q"] for row in written) == sorted(TEXTS)  # no row is lost, and none doubled
    assert facts(written) == of_map(script)
    of_victim, kept = sum(pid == victim for pid, _ in asked), kept_by(victim, Path("kept"))
    assert kept > 0
    assert len(asked) == 3 * len(TEXTS) + of_victim - kept  # what was not on disk yet, and no more, is asked again


def test_a_node_that_held_results_ends_the_query_which_is_run_again(two: Nodes, script: Script) -> None:
    """Daft has Ray make nothing anew that was in a node's memory; what was on disk is not asked again."""
    with query(two, script, "memory") as process:
        half_way(process, script, 400)
        victim = kill("node", two, script)
        _, errors = process.communicate()
    assert process.returncode
    assert "ObjectReconstructionFailedError" in errors
    before = script.asked()
    two.add()
    with query(two, script, "memory") as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    asked, done = script.asked(), json.loads(Path("done.json").read_text())
    rows = [{"q": q, "result": result} for q, result in zip(done["q"], done["result"], strict=True)]
    assert len(rows) == len(TEXTS)
    assert facts(rows) == of_map(script)
    lost = len(before) - sum(kept_by(pid, Path("kept")) for pid in {pid for pid, _ in before})
    assert lost < len(before)
    assert len(asked) == 3 * len(TEXTS) + lost
    assert victim in {pid for pid, _ in before}
