"""Runs of the same options and rows united in one run directory: shards, interrupted runs, work of other machines."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic

from msgspec import Struct

from shoal.batch.directory import DirectoryLock, RunConfig, remove_unfinished, undisturbed, workers_in, write_lines
from shoal.batch.journal import Journal
from shoal.batch.records import as_output, decode
from shoal.batch.rows import Shard
from shoal.batch.runner import Summary
from shoal.batch.sharding import shards_in
from shoal.batch.union import Union, uniting
from shoal.errors import CorruptStore, RunError, UsageError
from shoal.runtime.store import is_blank

_JOURNAL = "journal.sqlite"


class Merged(Struct):
    """What came of a merge.

    `path` is the run directory that now holds all of `runs`. `summary.rows` are the rows of the whole input, or those
    found where no run knew them; `missing` are not there yet, and `incomplete` says of which shard how many, where all
    shards are of one number. `failures` counts failed rows by type. `differing_rows` and `differing_draws` were
    finished in several places and not with the same result: one was taken, the same whatever the order.
    """

    path: Path
    runs: tuple[Path, ...]
    summary: Summary
    missing: int
    incomplete: dict[str, int]
    failures: Counter[str]
    differing_rows: int
    differing_draws: int


class MergedRun:
    """A run directory with others united into it, held until the end of `merging`."""

    def __init__(self, path: Path, config: RunConfig, journal: Journal, shards: Sequence[Shard], began: float) -> None:
        self.path = path
        self.config = config
        self.journal = journal
        self.shards = shards
        self.runs: tuple[Path, ...] = ()
        self.differing = (0, 0)
        self._began = began  # by the monotonic clock

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The rows kept, by number, as they stand in the journal."""
        rows = self.config.rows
        return ((number, line) for number, line in self.journal.records() if rows is None or number < rows)

    def lines(self) -> Iterator[bytes]:
        """The output: the records in input order, the same bytes in whatever order the runs were united."""
        return (as_output(line) for _, line in self.records())

    def write_output(self, path: Path) -> None:
        write_lines(path, self.lines())

    def missing(self) -> Iterator[int]:
        """The numbers of the rows that are not there, where it is known how many there are to be."""
        rows, following = self.config.rows or 0, 0
        for number in self.journal.numbers():
            yield from range(following, min(number, rows))
            following = number + 1
        yield from range(following, rows)

    def told(self) -> Merged:
        """The run so far in numbers."""
        summary, failures = Summary(rows=0), Counter[str]()
        for _, line in self.records():
            record = decode(line)
            summary.add(record)
            if record.error is not None:
                failures[record.error.type] += 1
        counts = {shard.count for shard in self.shards}
        count = counts.pop() if len(counts) == 1 else 1
        missing = Counter(number % count for number in self.missing())
        summary.rows = summary.finished + summary.failed + missing.total()
        summary.seconds = monotonic() - self._began
        parts = {str(Shard(index, count)): rows for index, rows in sorted(missing.items()) if count > 1}
        return Merged(self.path, self.runs, summary, missing.total(), parts, failures, *self.differing)


def merge(runs: Iterable[Path | str] | Path | str, into: Path | str | None = None) -> Merged:
    """Unite runs of the same options and rows into the run directory `into`, which `shoal run` then takes for its own.

    A run is a directory with a config.json and a journal: a shard, a run that was interrupted, what another worker did
    of any rows. A directory with shards in it stands for all of them. Without `into`, shards are united in the
    directory that they lie in, and one directory in itself. Nothing of the runs is changed; `into` changes as a whole
    or, where anything is wrong or the process ends, not at all.

    Of two results for one row a finished one is taken before a failed one, and else always the same of the two: the
    order of the runs does not matter, they may be united in steps, and again after a shard was run again.

    Raises UsageError where there is no run, RunError naming the first difference between two, CorruptStore for a
    damaged journal, StoreLocked for a run at work, StoreError where something cannot be read or written.
    """
    given = [runs] if isinstance(runs, Path | str) else runs
    with merging([Path(run) for run in given], Path(into) if into is not None else None) as merged:
        merged.write_output(merged.path / "output.jsonl")
        return merged.told()


@contextlib.contextmanager
def merging(runs: Sequence[Path], into: Path | None = None) -> Iterator[MergedRun]:
    """`merge`, with the united run for the body; nobody else can work in its directory meanwhile."""
    began = monotonic()
    found = _found(runs)
    _joined(found)
    path = into or _home(runs, list(found))
    lock = DirectoryLock(path, "a run directory")
    with contextlib.ExitStack() as held:
        held.callback(lock.release)
        remove_unfinished(path)
        own = _own(path)
        config = _joined(found if own is None else {path: own} | found)
        shards = [each.shard for each in found.values() if each.shard is not None]
        with contextlib.ExitStack() as undo:
            if own is None:
                undo.callback(_remove, path)
            config.write(path)
            journal = Journal(path / _JOURNAL)
            undo.callback(journal.close)
            merged = MergedRun(path, config, journal, shards, began)
            with uniting(journal) as union:
                merged.runs = tuple(_united(union, path, found))
                merged.differing = union.differing_rows, union.differing_draws
            undo.pop_all()
        with contextlib.closing(journal):
            yield merged


def _own(path: Path) -> RunConfig | None:
    """What the directory to unite in was asked before."""
    own = RunConfig.read(path)
    if own is None and not is_blank(path / _JOURNAL):
        raise CorruptStore(f"{path}: a journal without its config.json; move it away to start anew")
    if own is not None and own.shard is not None:
        raise RunError(f"{path} holds shard {own.shard} of a run, not the whole; choose another --run-dir")
    return own


def _remove(path: Path) -> None:
    """Leave nothing of a run that came to nothing."""
    for name in ("config.json", _JOURNAL, f"{_JOURNAL}-wal", f"{_JOURNAL}-shm"):
        with contextlib.suppress(OSError):
            (path / name).unlink(missing_ok=True)


def _united(union: Union, path: Path, found: Iterable[Path]) -> Iterator[Path]:
    """Unite runs with the one in `path`, which is held; what was united, each with its workers' journals."""
    others = [run for run in found if run.resolve() != path.resolve()]
    for run in (path, *others):
        with undisturbed(run) if run in others else contextlib.nullcontext():
            for place in workers_in(run) if run == path else (run, *workers_in(run)):
                _add(union, place)
                yield place


def _add(union: Union, run: Path) -> None:
    with undisturbed(run):
        if is_blank(run / _JOURNAL):  # it ended before it did anything
            return
        journal = Journal(run / _JOURNAL, read_only=True)
        try:
            union.add(journal)
        finally:
            journal.close()


def _found(runs: Sequence[Path]) -> dict[Path, RunConfig]:
    """The runs that directories stand for, each once: themselves, and the shards in them."""
    found: dict[Path, tuple[Path, RunConfig]] = {}
    if not runs:
        raise UsageError("merge: no run is given; name the directories to unite")
    for run in runs:
        if not run.is_dir():
            raise UsageError(f"{run}: {'is no directory' if run.exists() else 'no such run directory'}")
        here = (run, *(path for _, path in shards_in(run)))
        configs = [(path, config) for path in here if (config := _config(path)) is not None]
        if not configs:
            raise UsageError(f"{run}: holds no run and no shards of one; expected what `shoal run` made")
        for path, config in configs:
            found.setdefault(path.resolve(), (path, config))
    return dict(sorted(found.values(), key=lambda each: each[0]))


def _config(path: Path) -> RunConfig | None:
    """What a run was asked; None where there is none, or it ended before it wrote that down."""
    config = RunConfig.read(path)
    if config is None:
        with undisturbed(path):  # or else it is just beginning
            if not is_blank(path / _JOURNAL):
                raise CorruptStore(f"{path}: a journal without its config.json; move it away to go on")
    return config


def _home(runs: Sequence[Path], found: Sequence[Path]) -> Path:
    """Where runs are united when nothing else is said."""
    parents = {path.resolve().parent for path in found}
    if len(parents) == 1:
        shards = {path.resolve() for _, path in shards_in(found[0].resolve().parent)}
        if all(path.resolve() in shards for path in found):
            return found[0].parent
    if len(runs) == 1:
        return runs[0]
    raise UsageError("these runs are not shards that lie in one directory; say where to unite them (--run-dir)")


def _joined(configs: dict[Path, RunConfig]) -> RunConfig:
    """What is asked of all; RunError, saying the first difference, where it is not the same."""
    (first, asked), *others = configs.items()
    for path, config in others:
        if differing := asked.differing_option(config.options):
            name, here, there = differing
            raise RunError(f"{path} is of a run with {name}={there}, {first} of one with {name}={here}")
    longest, whole = max(configs.items(), key=lambda item: item[1].rows or 0)
    for path, config in configs.items():
        if config.rows is None or (config.rows, config.digest) in ((whole.rows, whole.digest), *whole.earlier):
            continue
        if config.rows == whole.rows:
            raise RunError(f"{path} is of a run of other rows than {longest}: their input is not the same")
        raise RunError(
            f"{path} is of a run of {config.rows} rows, {longest} of one of {whole.rows} that is not known to begin "
            "with them; run one of them again with the input of the other"
        )
    known = {each for config in configs.values() for each in config.earlier}
    known |= {(config.rows, config.digest) for config in configs.values() if config.rows and config.digest}
    earlier = sorted(known - {(whole.rows, whole.digest)})
    label = min(config.input for config in configs.values())
    return RunConfig(asked.options, whole.rows, whole.digest, label, None, earlier)
