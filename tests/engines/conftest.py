"""Weights for the engines, made by a process of their own: torch stays out of the one that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def made(call: str) -> None:
    """Carry out a call of tests.engines.weights or taught."""
    program = (
        f"from pathlib import Path\nfrom tests.engines.weights import *\nfrom tests.engines.taught import *\n{call}"
    )
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # several threads wait for each other where others compute, too
    done = subprocess.run([sys.executable, "-c", program], env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows what the contract asks; beside it `lora`, an adapter for it."""
    folder = tmp_path_factory.mktemp("taught") / "model"
    made(f"tiny_lora(Path({str(folder.parent / 'lora')!r}), taught_llama(Path({str(folder)!r})))")
    return folder


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct; beside it `lora`, an adapter for it."""
    folder = tmp_path_factory.mktemp("packaged") / "model"
    made(f"tiny_lora(Path({str(folder.parent / 'lora')!r}), packaged_model(Path({str(folder)!r})))")
    return folder
