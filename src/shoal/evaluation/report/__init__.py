"""Reports that can be sent to someone: a page in one file, plots, and tables for other programs."""

from pathlib import Path

from shoal.batch.directory import atomic_writer
from shoal.evaluation.comparing.result import Comparison
from shoal.evaluation.report import figures, plotting, spreadsheet
from shoal.evaluation.report.document import document
from shoal.evaluation.report.texts import plain
from shoal.evaluation.report.verdict import verdict

__all__ = ["write"]

_FILES = {
    "report.html": "everything on one page, for any browser; it loads nothing from anywhere",
    "pareto.png": "the plot of the metric against tokens",
    "pareto.svg": "the same as a drawing of any size",
    "curves.png": "the metric against the sizes of techniques: draws, beams, rounds",
    "comparison.csv": "a line a technique",
    "differences.csv": "a line a pair of techniques, row by row",
}


def write(comparison: Comparison, directory: Path) -> list[Path]:
    """Writes the report into the directory, over an earlier one, and returns its files, the page first.

    The same comparison gives the same bytes. Raises UsageError where matplotlib is not installed, StoreError where
    a file cannot be written.
    """
    page = document(comparison)
    made = [_write(directory / "report.html", page.encode()), *_plots(comparison, directory)]
    made.append(_write(directory / "comparison.csv", spreadsheet.arms_csv(comparison)))
    made.append(_write(directory / "differences.csv", spreadsheet.differences_csv(comparison)))
    made.append(_write(directory / "README.txt", _summary(comparison, made).encode()))
    for name in _FILES.keys() - {path.name for path in made}:  # of an earlier comparison
        (directory / name).unlink(missing_ok=True)
    return made


def _plots(comparison: Comparison, directory: Path) -> list[Path]:
    with plotting.drawing():
        made = []
        if comparison.arms:
            pareto = figures.pareto(comparison)
            made = [plotting.save(pareto, directory / f"pareto.{suffix}") for suffix in ("png", "svg")]
        if any(arm.curve for arm in comparison.arms):
            made.append(plotting.save(figures.curves(comparison), directory / "curves.png"))
    return made


def _summary(comparison: Comparison, made: list[Path]) -> str:
    """Plain text, not Markdown: names come from outside and must not become links or pictures."""
    lines = [plain(comparison.title, 200), "", *verdict(comparison), ""]
    lines += [f"{path.name:16} {_FILES[path.name]}" for path in made]
    return "\n".join(lines) + "\n"


def _write(path: Path, content: bytes) -> Path:
    with atomic_writer(path) as file:
        file.write(content)
    return path
