"""What the name of data stands for: a file of that path, else a set that ships with shoal, or puzzles."""

from pathlib import Path

from shoal.evaluation import datasets
from shoal.evaluation.datasets import Suggested, puzzles


def data_path(text: str) -> Path:
    """The file that a name stands for: a file of that path, else the set `data/NAME` or `puzzle/NAME?size=&seed=`.

    UsageError for a set or a puzzle that there is none of.
    """
    path = Path(text)
    if path.exists():
        return path
    if text.startswith(puzzles.PREFIX):
        return puzzles.generated(puzzles.parse(text))
    known = datasets.named(text)
    return known.path if known else path


def suggested_for(text: str | None) -> Suggested | None:
    """The prompt, the target's column and the scorer to begin with, where the name is of one of our sets or puzzles."""
    if text is None or Path(text).exists():
        return None
    if text.startswith(puzzles.PREFIX):
        return puzzles.SUGGESTED
    known = datasets.named(text)
    return known.suggested if known else None
