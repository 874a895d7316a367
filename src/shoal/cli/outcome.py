"""What is said of a run at its end, by `shoal run` and `shoal merge`: its figures as JSON, its scorer's figure."""

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET, structs

from shoal.batch.records import decode
from shoal.batch.runner import Summary
from shoal.evaluation.metrics import Metric

Figure = tuple[str, float]  # the name of a scorer's metric, and what it comes to


def figure_of(metric: Metric | None, lines: Iterable[bytes], target: str | None) -> Figure | None:
    """A scorer's metric over the records that have a score, the target being in the column `target`."""
    if metric is None:
        return None
    sums: list[float] = []
    for record in map(decode, lines):
        if record.score is not UNSET:
            parts = metric.parts(record.score, record.answer, record.input.get(target) if target else None)
            sums = [sum_ + part for sum_, part in zip(sums or [0.0] * len(parts), parts, strict=True)]
    return (metric.name, metric.value(sums)) if sums else None


def as_json(summary: Summary, output: str, figure: Figure | None) -> dict[str, Any]:
    """What --json prints of a run."""
    facts = structs.asdict(summary) | {"score": summary.score, "output": output}
    return facts | ({"metric": figure[0], "value": figure[1]} if figure else {})
