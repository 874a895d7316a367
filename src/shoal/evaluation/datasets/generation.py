"""Writes the rows of a puzzle, told on standard input, to its file: run as a process of its own."""

import random
import sys
from typing import Any

import msgspec

from shoal.batch.directory import write_lines
from shoal.errors import UsageError
from shoal.evaluation.datasets.puzzles import Puzzle, rows


def generate(order: bytes) -> None:
    """Write the rows of the puzzle that `order`, in JSON, describes."""
    puzzle = msgspec.json.decode(order, type=Puzzle)
    random.seed(puzzle.seed)  # a few generators draw from the shared one besides their own
    puzzle.path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(puzzle.path, (msgspec.json.encode(row, enc_hook=_plain) for row in rows(puzzle)))


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays, sets and dates of the metadata as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


if __name__ == "__main__":
    try:
        generate(sys.stdin.buffer.read())
    except (UsageError, OSError) as error:
        sys.exit(str(error))
