"""The files that a batch gives in the end, made from its journal and always the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from shoal.batch.directory import atomic_writer
from shoal.batch.journal import Journal
from shoal.errors import StoreError
from shoal.server.batches.lines import decoded, read_lines
from shoal.server.batches.objects import Counts, Tokens, added, tokens_of, unanswered_line

Ending = Literal["completed", "expired", "cancelled"]


class Results(Struct):
    """What was written: bytes of the output and of the error file, 0 where nobody needs one."""

    output_bytes: int
    error_bytes: int
    counts: Counts
    usage: Tokens


def write_results(
    batch: str, ending: Ending, journal: Journal, source: Path, longest: int, paths: tuple[Path, Path]
) -> Results:
    """Write the output and the error file at `paths`, in input order.

    Every line of the input is in one of them, once: those the batch ended without are in the error file and say so.
    Raises StoreError where they cannot be written; written again they are the same.
    """
    failed = journal.outcomes()
    results = Results(0, 0, Counts(), Tokens())
    total = completed = 0
    with atomic_writer(paths[0]) as output, atomic_writer(paths[1]) as errors:
        for number, line in _lines(batch, ending, journal, source, longest):
            total += 1
            if failed.get(number, True):
                results.error_bytes += errors.write(line + b"\n")
            else:
                completed += 1
                results.output_bytes += output.write(line + b"\n")
                results.usage = added(results.usage, tokens_of(line))
    for path, size in zip(paths, (results.output_bytes, results.error_bytes), strict=True):
        path.chmod(0o600)
        if not size:
            path.unlink()
    results.counts = Counts(total, completed, sum(failed.values()))
    return results


def _lines(batch: str, ending: Ending, journal: Journal, source: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    kept = journal.records()
    if ending == "completed":
        yield from kept
        return
    number_kept, line = next(kept, (-1, b""))
    try:
        for number, data in read_lines(source, longest):
            if number == number_kept:
                yield number, line
                number_kept, line = next(kept, (-1, b""))
            elif data is not None:
                yield number, unanswered_line(batch, number, decoded(data).custom_id, ending)
    except OSError as error:
        raise StoreError(f"{source}: cannot be read ({error.strerror})") from error
