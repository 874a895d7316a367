"""What came of a run of evolution, to look at and to send to someone: a page in one file, and plots."""

from pathlib import Path

from shoal.batch.directory import atomic_writer
from shoal.evaluation.report import plotting
from shoal.evolution.report import figures
from shoal.evolution.report.document import document
from shoal.evolution.report.lineage import lineage
from shoal.evolution.report.reading import Run, read

__all__ = ["write"]


def write(run_folder: Path) -> list[Path]:
    """Writes the report of a run into its folder, over an earlier one, and returns its files, the page first.

    The run may be finished, stopped or under way in another process: complete generations count. The same generations
    give the same bytes. Raises UsageError where the folder holds no run, where no generation is complete or where
    matplotlib is not installed, CorruptStore where a file of the run is damaged, StoreError where one cannot
    be written.
    """
    run = read(run_folder)
    page = run_folder / "report.html"
    content = document(run).encode()
    with atomic_writer(page) as file:
        file.write(content)
    return [page, *_plots(run, run_folder)]


def _plots(run: Run, folder: Path) -> list[Path]:
    with plotting.drawing():
        drawn = {"fitness": figures.fitness(run), "lineage": lineage(run)}
        return [
            plotting.save(made, folder / f"{name}.{suffix}")
            for name, made in drawn.items()
            for suffix in ("png", "svg")
        ]
