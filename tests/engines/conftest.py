"""Weights for the engines, made by a process of their own: torch stays out of the one that runs the tests."""

import subprocess
import sys
from pathlib import Path

import pytest


def made(call: str) -> None:
    """Carry out a call of tests.engines.weights."""
    program = f"from pathlib import Path\nfrom tests.engines.weights import *\n{call}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model; beside it `lora`, an adapter for it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    made(f"tiny_lora(Path({str(folder.parent / 'lora')!r}), tiny_llama(Path({str(folder)!r})))")
    return folder


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct; beside it `lora`, an adapter for it."""
    folder = tmp_path_factory.mktemp("packaged") / "model"
    made(f"tiny_lora(Path({str(folder.parent / 'lora')!r}), packaged_model(Path({str(folder)!r})))")
    return folder
