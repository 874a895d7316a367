"""What only a GPU shows of vLLM: as fast as its own offline call, and the memory given back."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.backends.contract import draw, of
from tests.scripting import run

from shoal.backends.engines import Loading
from shoal.backends.vllm import VllmBackend

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]


def used_mib() -> float:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(float, subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()))


def test_closing_gives_the_memory_back(packaged: Path) -> None:
    before = used_mib()
    backend = VllmBackend(Loading(str(packaged), {"gpu_memory_utilization": 0.3}, None, "vllm/m"))
    assert "Paris" in draw(backend, of("What is the capital of France?", temperature=0.0, max_tokens=24))[0].text
    assert used_mib() > before + 1000
    run(backend.aclose())
    assert used_mib() < before + 1000


def test_a_run_is_as_fast_as_the_engines_own_offline_call(packaged: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.engines", str(packaged), "--contenders", "offline,shoal"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *_, ratios = map(json.loads, done.stdout.splitlines())
    assert ratios["shoal_over_offline"] >= 0.95
