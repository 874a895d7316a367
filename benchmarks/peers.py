"""Other systems doing the same work: each is installed into an environment of its own and run by its own script.

python -m benchmarks.peers [NAME ...]    installs and runs them, one JSON line for each peer and workload
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.mock import mock_server
from benchmarks.workload import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = Path(__file__).resolve().parent / ".peers"


class Peer(NamedTuple):
    """A script of benchmarks/peer_scripts, what it needs installed, and variables that select its variant."""

    script: str
    environment: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


_OPENAI = ("openai[aiohttp]",)
# optillm requires torch, spacy, selenium and more; these are what its proxy needs to start and serve.
_PROXY = (
    "aiohttp",
    "cerebras_cloud_sdk",
    "flask",
    "math-verify",
    "networkx",
    "numpy",
    "openai",
    "pyyaml",
    "sympy",
    "z3-solver<=4.15.4",
)
PEERS = {
    "openai": Peer("openai_sdk", "openai", _OPENAI),
    "openai-aiohttp": Peer("openai_sdk", "openai", _OPENAI, variables=(("TRANSPORT", "aiohttp"),)),
    "litellm": Peer("litellm_sdk", "litellm", ("litellm",)),
    "optillm": Peer("optillm_proxy", "optillm", _PROXY, without_dependencies=("optillm==0.4.0",)),
}


class Unavailable(Exception):
    """A peer that cannot be installed or does not run here, and why."""


def python_of(peer: Peer) -> Path:
    """The interpreter of the peer's environment, installed where it is not yet. Prebuilt wheels only."""
    folder = ENVIRONMENTS / peer.environment
    python = folder / "bin" / "python"
    stamp = folder / "installed.json"
    wanted = json.dumps([peer.requirements, peer.without_dependencies])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    uv = shutil.which(os.environ.get("UV", "uv"))
    if uv:
        _install_step([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--only-binary", ":all:"]
    else:
        _install_step([sys.executable, "-m", "venv", "--clear", str(folder)])
        install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    _install_step([*install, *peer.requirements])
    if peer.without_dependencies:
        _install_step([*install, "--no-deps", *peer.without_dependencies])
    stamp.write_text(wanted)
    return python


def _install_step(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command)}: took more than {error.timeout:.0f} s") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")


def run_client(command: list[str], base_url: str, workload: str, **variables: str) -> dict[str, Any]:
    """One run of a client (see workload.py) in a process of its own, so that its CPU time is its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    try:
        done = subprocess.run(
            [*command, base_url, workload],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable("took more than 300 s") from error
    if done.returncode:
        raise Unavailable(f"failed: {done.stderr.strip()[-300:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_peer(name: str, base_url: str, workload: str) -> dict[str, Any]:
    peer = PEERS[name]
    script = Path(__file__).resolve().parent / "peer_scripts" / f"{peer.script}.py"
    return run_client([str(python_of(peer)), str(script)], base_url, workload, **dict(peer.variables))


def main() -> None:
    for name in sys.argv[1:] or PEERS:
        for workload in WORKLOADS:
            row: dict[str, Any] = {"benchmark": "peers", "client": name, "workload": workload}
            try:
                with mock_server(delay_ms=50) as mock:
                    row.update(run_peer(name, mock.base_url, workload))
            except Unavailable as error:
                row["unavailable"] = str(error)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
