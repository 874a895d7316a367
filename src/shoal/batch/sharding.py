"""Which shard of a run this process is to do, and what a run's directory may hold beside it."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from shoal.batch.directory import RunConfig, refuse_other_run
from shoal.batch.journal import Journal
from shoal.batch.rows import Input, Shard
from shoal.errors import RunError, UsageError
from shoal.runtime.store import is_blank

_FOLDER = re.compile(r"shard-([0-9]{1,9})-of-([0-9]{1,9})")
_GIVEN = re.compile(r"(auto|[0-9]{1,9})(?:/([0-9]{1,9}))?")


class _Launcher(Struct, frozen=True):
    """What starts many processes, and the variables in which each is told its number and how many there are.

    Numbers begin at `first` and go up by `step`, where those are told. `last` is the highest number.
    """

    number: str
    count: str | None
    first: str = ""
    step: str = ""
    last: str = ""


_LAUNCHERS = (
    _Launcher("SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS"),
    _Launcher(
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_STEP",
        "SLURM_ARRAY_TASK_MAX",
    ),
    _Launcher("JOB_COMPLETION_INDEX", None),
    _Launcher("SLURM_PROCID", "SLURM_NTASKS"),
)


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that `3/8`, `auto` or `auto/8` names; `auto` asks the launcher's environment.

    UsageError where it names none.
    """
    given = _GIVEN.fullmatch(text)
    if given is None or (given[1] != "auto" and given[2] is None):
        raise UsageError(f"--shard {text!r}: expected i/n, as in 0/8 for the first of eight, or auto, or auto/8")
    count = None if given[2] is None else int(given[2])
    if count == 0:
        raise UsageError(f"--shard {text!r}: a run has at least one shard")
    if given[1] == "auto":
        return _told(text, count, environment)
    assert count is not None
    return _checked(int(given[1]), count, f"--shard {text!r}")


def _checked(index: int, count: int, where: str) -> Shard:
    if not 0 <= index < count:
        raise UsageError(f"{where}: shards count from 0; those of {count} are 0/{count} to {count - 1}/{count}")
    return Shard(index, count)


def _told(text: str, count: int | None, environment: Mapping[str, str]) -> Shard:
    """The shard that the launcher's variables name; with a `count` of the user's own, its numbers are shards."""
    launcher = next((each for each in _LAUNCHERS if environment.get(each.number)), None)
    if launcher is None:
        known = ", ".join(each.number for each in _LAUNCHERS)
        raise UsageError(f"--shard {text}: no launcher says which shard this is ({known}); give --shard i/n")
    number = _integer(launcher.number, environment)
    where = f"--shard {text}, {launcher.number}={number}"
    if count is not None:
        last = _integer(launcher.last, environment) if environment.get(launcher.last) else number
        if last >= count:
            raise UsageError(f"{where}: numbers go up to {last}; shards count from 0, so number them 0 to {count - 1}")
        return Shard(number, count)
    if launcher.count is None:
        raise UsageError(f"{where}: how many there are is told nowhere; say it, as in --shard auto/8")
    return _of_array(launcher, number, environment, where)


def _of_array(launcher: _Launcher, number: int, environment: Mapping[str, str], where: str) -> Shard:
    """The place of a number among all numbers, which may begin anywhere and go up in steps."""
    assert launcher.count is not None
    count = _integer(launcher.count, environment)
    first = _integer(launcher.first, environment) if environment.get(launcher.first) else 0
    step = _integer(launcher.step, environment) if environment.get(launcher.step) else 1
    last = _integer(launcher.last, environment) if environment.get(launcher.last) else first + (count - 1) * step
    index, between = divmod(number - first, max(step, 1))
    if between or last != first + (count - 1) * step:
        raise UsageError(f"{where}: the {count} numbers have gaps, so they are no shards; give --shard auto/n")
    return _checked(index, count, f"{where}, {launcher.count}={count}")


def _integer(name: str, environment: Mapping[str, str]) -> int:
    text = environment.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"--shard auto: {name}={text[:20]!r} is not a number")
    return int(text)


def shards_in(directory: Path) -> Iterator[tuple[Shard, Path]]:
    """The shards whose folders are in a run's directory, in the order of their names."""
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if (found := _FOLDER.fullmatch(path.name)) and path.is_dir():
                yield Shard(int(found[1]), int(found[2])), path


def refuse_other_shards(directory: Path, shard: Shard, options: dict[str, Any], rows: Input) -> None:
    """RunError where a run's directory holds shards of another number, or anything of another run.

    So what is paid for can be merged. One sibling is looked at, not all: they were looked at when they began.
    """
    whole = refuse_other_run(directory, options, rows)
    if whole is not None and whole.shard is not None:
        raise RunError(f"{directory} holds shard {whole.shard} of a run, not the whole; --run-dir is where shards lie")
    siblings = [(other, path) for other, path in shards_in(directory) if other != shard]
    for other, path in siblings:
        if other.count != shard.count:
            raise RunError(
                f"{directory} holds shards of {other.count} ({path.name}), now --shard {shard}; keep to their number, "
                "or choose another --run-dir"
            )
    for _, path in siblings[:1]:
        refuse_other_run(path, options, rows)


def refuse_unmerged(directory: Path) -> None:
    """RunError where shards in a run's directory have finished what it lacks: their work would be done again."""
    advice = f"unite them with `shoal merge {directory}`, and the same command goes on from there, or choose another"
    shards = list(shards_in(directory))
    if not shards:
        return
    whole, done = RunConfig.read(directory), _done(directory)
    if whole is None:
        raise RunError(f"{directory} holds shards of a run; {advice} --run-dir")
    for _, path in shards:
        config = RunConfig.read(path)
        if config is not None and config.options == whole.options and (more := len(_done(path) - done)):
            raise RunError(f"{path} has finished {more} rows that {directory} lacks; {advice} --run-dir")


def _done(path: Path) -> set[int]:
    """The numbers of the rows that are finished in a run's directory."""
    if is_blank(path / "journal.sqlite"):
        return set()
    with contextlib.closing(Journal(path / "journal.sqlite", read_only=True)) as journal:
        return journal.done()
