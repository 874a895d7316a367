"""Whether an answer solves its puzzle, by the verifier of the library that made it."""

from shoal.batch.rows import Row
from shoal.evaluation.datasets import puzzles


async def solved(output: str, answer: str | None, _: object, row: Row) -> float:
    """What the library's verifier gives the short answer or the whole output, whichever is better."""
    texts = {output.strip()} | ({answer} if answer else set())
    return max(puzzles.verify(row, text) for text in texts)
