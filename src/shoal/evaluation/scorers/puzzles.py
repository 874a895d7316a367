"""Whether an answer solves its puzzle, by the verifier of the library that made it."""

from shoal.batch.rows import Row
from shoal.evaluation.datasets import puzzles
from shoal.evaluation.scorers.rating import Scorer


def puzzle() -> Scorer:
    """What reasoning-gym's verifier gives the short answer or the whole output, whichever is better.

    For rows of a puzzle (`shoal data puzzles`). Some verifiers give part of the credit.
    """
    return Scorer("puzzle", _solved, columns=("puzzle", "config", "metadata"))


async def _solved(output: str, answer: str | None, _: object, row: Row) -> float:
    texts = {output.strip()} | ({answer} if answer else set())
    return max(puzzles.verify(row, text) for text in texts)
