"""What a traced run did, read back from its directory, also while the run is at work."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct, structs

from shoal.batch.journal import Journal
from shoal.batch.records import Record, decode
from shoal.errors import UsageError, did_you_mean
from shoal.traces.data import Trace


class TracedRow(Struct, frozen=True):
    """A row's number, its result and, where it was traced, its call tree."""

    number: int
    record: Record
    trace: Trace | None

    @property
    def id(self) -> str:
        return str(self.record.id)

    @property
    def seconds(self) -> float:
        return self.trace.seconds if self.trace else 0.0


class TracedRun:
    """The rows of a run directory with their traces. Use as a context manager.

    Raises UsageError where there is no run, or none that was traced.
    """

    def __init__(self, path: Path) -> None:
        journal = path / "journal.sqlite"
        if not journal.is_file():
            what = "is not a run directory" if path.is_dir() else "no such run directory"
            raise UsageError(f"{path}: {what}; expected what `shoal run` made, under runs/ or at its --run-dir")
        self.path = path
        self.journal = Journal(journal)
        if not self.journal.traced:
            self.journal.close()
            raise UsageError(f"{path}: this run kept no traces; run it with --trace (finished rows are not run again)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.journal.close()

    def rows(self) -> Iterator[TracedRow]:
        """The finished rows in order, one at a time in memory."""
        for number, line in self.journal.records():
            yield self._row(number, decode(line))

    def row(self, id_: str) -> TracedRow:
        """The row of this id, or of the number N where `#N` is asked for."""
        ids: dict[str, None] = {}
        found: list[tuple[int, Record]] = []
        for number, line in self.journal.records():
            record = decode(line)
            ids[str(record.id)] = None
            if id_ == (f"#{number}" if id_.startswith("#") else str(record.id)):
                found.append((number, record))
        if not found:
            near = did_you_mean(id_, ids)
            if len(ids) > 10 and near.startswith("known"):
                near = f"`shoal trace {self.path}` lists them"
            raise UsageError(f"{self.path}: no finished row {id_!r}; {near}")
        if len(found) > 1:
            numbers = ", ".join(f"'#{number}'" for number, _ in found[:5])
            raise UsageError(f"{self.path}: {len(found)} rows have the id {id_!r}; name one by its number: {numbers}")
        row = self._row(*found[0])
        if row.trace is None:
            raise UsageError(f"{self.path}: row {id_!r} was finished without --trace; run it anew in another --run-dir")
        return row

    def _row(self, number: int, record: Record) -> TracedRow:
        trace = self.journal.trace(number)
        if trace is not None:  # what the record holds is kept there only
            trace = structs.replace(
                trace,
                name=f"row {record.id}",
                arguments=record.input,
                result=record.output,
                error=record.error,
            )
        return TracedRow(number, record, trace)
