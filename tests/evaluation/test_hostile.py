"""Outputs of ten megabytes, made to be slow to read, hold no scorer up."""

import time

import pytest
from tests.scripting import run

from shoal.evaluation.scorers import SCORERS, open_scorer
from shoal.runtime.types import Completion

SIZE = 10_000_000
PIECES = ["<think></think>", "\\boxed{2}", "```\n", "```python\nx\n```\n", "    return the answer is\n"]
TARGETS = {
    "boolean": True,
    "f_beta": True,
    "choice": "A",
    "regex": r"(\d|x)+!$",
    "json": "{}",
    "code": "assert f() == 1",
}

ROW = {"options": ["1234567", "2"], "puzzle": "chain_sum", "config": {}, "metadata": {}, "answer": "1234567"}


@pytest.mark.usefixtures("confined")
@pytest.mark.parametrize("piece", PIECES, ids=range(len(PIECES)))
@pytest.mark.parametrize("name", [name for name in SCORERS if name != "judge"])
def test_an_endless_output_is_wrong_and_soon_so(name: str, piece: str) -> None:
    output = piece * (SIZE // len(piece))
    began = time.monotonic()
    _, score = run(open_scorer(name).score(Completion(output), TARGETS.get(name, "1234567"), ROW))
    assert score == 0.0
    assert time.monotonic() - began < 20  # less than a second each on a machine that does nothing else
