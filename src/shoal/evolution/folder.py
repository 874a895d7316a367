"""A run's folder, named as Day Care has it: what was asked, what came of it, and the journal that it all stands on."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from shoal.batch.directory import DirectoryLock, atomic_writer
from shoal.batch.journal import Journal
from shoal.batch.rows import Row
from shoal.errors import CorruptStore, RunError, StoreError
from shoal.evolution.generation import Generation
from shoal.evolution.statistics import GenerationStats
from shoal.traces import words

_FORMAT = 1
_ABOUT = (
    "Chance is named by the seed, the generation and the slot, so no random state is kept. journal.sqlite is what a "
    "run goes on from; the other files are written from it, and written again where they are missing or changed."
)
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Kept(Struct, frozen=True):
    """A complete generation as the journal has it."""

    generation: Generation
    stats: GenerationStats


_decode = msgspec.json.Decoder(Kept).decode


class RunFolder:
    """One run's place on disk, held by one process at a time. Use as a context manager.

    Opening it again with the same options continues the run. RunError names the first option that differs, and all is
    left as it is; `generations` may be more. `about` holds further facts of the caller's: those given now replace those
    of the same name, and none is compared.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._lock = DirectoryLock(path, "the folder of a run")
        try:
            self._check(options, about or {})
            self.journal = Journal(path / "journal.sqlite")
            self.kept = self._read()
        except BaseException:
            self._lock.release()
            raise

    def _check(self, options: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        config, asked = self.path / "_config.json", msgspec.json.decode(_encode(options))
        facts = {**_refuse_other(self.path, asked), **about}
        _replace(config, {"format": _FORMAT, "note": _ABOUT, "options": asked, "about": facts}, durable=True)

    def _read(self) -> list[Kept]:
        """The complete generations, in order."""
        kept: list[Kept] = []
        for number, value in self.journal.records():
            try:
                kept.append(_decode(value))
            except msgspec.DecodeError as error:
                raise CorruptStore(f"{self.path}: generation {number} is damaged in the journal ({error})") from None
            if number != len(kept) - 1:
                raise CorruptStore(f"{self.path}: generation {len(kept) - 1} is missing from the journal")
            for scored in kept[-1].generation.population:  # it names a file
                if not re.fullmatch(r"\d+-\d+", scored.unit.id):
                    raise CorruptStore(f"{self.path}: generation {number} has a unit named {scored.unit.id[:40]!r}")
        return kept

    async def keep(self, generation: Generation, stats: GenerationStats) -> None:
        """Keep a complete generation; returns when it is on disk."""
        kept = Kept(generation, stats)
        await self.journal.keep(generation.number, _encode(kept), failed=False)
        self.kept.append(kept)

    # Files for people and programs

    def begin(self) -> None:
        """Bring the files of complete generations in order; the run itself is not complete."""
        for kept in self.kept:
            self.write_generation(kept)
        _remove(self.path / "complete")

    def write_generation(self, kept: Kept) -> None:
        """The files of one generation; those that are as they should be stay untouched."""
        number = kept.generation.number
        place = self.path / f"generation_{number}_population"
        for slot, scored in enumerate(kept.generation.population):
            _replace(place / f"{scored.unit.id}.json", {"slot": slot, **structs.asdict(scored)})
        _replace(self.path / f"generation_{number}_log.json", log_of(kept.generation))
        _replace(self.path / f"generation_{number}_stats.json", kept.stats)

    def write(self, name: str, value: Any) -> None:
        """Another file of the run, as JSON."""
        _replace(self.path / name, value)

    def write_end(self, mutation_prompts: Sequence[str], result: Mapping[str, Any], ended: str) -> None:
        """The files of the whole run. `mutation_prompts` are those that it began with."""
        history = [kept.generation for kept in self.kept]
        _replace(self.path / "generation_log.json", [log_of(generation) for generation in history])
        _replace(self.path / "elite_history.json", [elite_of(generation) for generation in history])
        _replace(self.path / "new_mutation_prompts.json", new_mutation_prompts(history, mutation_prompts))
        _replace(self.path / "result.json", result)
        if ended not in ("budget", "interrupted"):
            _replace(self.path / "complete", {"ended": ended, "generations": len(history) - 1})

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        self._lock.release()


def begun_in(path: Path, options: Mapping[str, Any], *, from_start: bool = False) -> tuple[int, int]:
    """Of the run in a folder: how many generations are complete, and how many draws there are of those that are not.

    `from_start` is of a run that begins again on all that it has: none is complete, and all draws are told. Nothing is
    written. RunError names the first option that differs.
    """
    _refuse_other(path, msgspec.json.decode(_encode(options)))
    if not (path / "journal.sqlite").exists():
        return 0, 0
    journal = Journal(path / "journal.sqlite", read_only=True)
    try:
        complete = 0 if from_start else sum(1 for _ in journal.records())
        return complete, journal.drawn(complete - 1)
    finally:
        journal.close()


def new_run(parent: Path) -> Path:
    """A new folder RUN_<n> in `parent`, n one more than the last."""
    number = max(runs(parent), default=-1) + 1
    while True:
        path = parent / f"RUN_{number}"
        try:
            path.mkdir(mode=0o700, parents=True)
            return path
        except FileExistsError:  # another process was quicker
            number += 1
        except OSError as error:
            raise StoreError(f"{path}: cannot be made ({error.strerror})") from error


def runs(parent: Path) -> list[int]:
    """The numbers of the runs in `parent`, in order."""
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    return sorted(int(name[4:]) for name in names if re.fullmatch(r"RUN_\d+", name))


def log_of(generation: Generation) -> dict[str, Any]:
    """What happened in a generation: who won over whom, and what came of it."""
    units = [
        {"id": scored.unit.id, "fitness": scored.fitness, "questions": scored.questions, "failed": scored.failed}
        for scored in generation.population
    ]
    return {"generation": generation.number, "units": units, "births": generation.births}


def elite_of(generation: Generation) -> dict[str, Any]:
    """The fittest unit of a generation."""
    best = generation.best
    return {"generation": generation.number, "fitness": best.fitness, "unit": best.unit}


def new_mutation_prompts(history: Sequence[Generation], given: Sequence[str]) -> list[str]:
    """The mutation prompts of units that the run did not begin with, in the order in which they came."""
    units = (scored.unit for generation in history for scored in generation.population)
    return list(dict.fromkeys(unit.mutation_prompt for unit in units if unit.mutation_prompt not in {*given, ""}))


def digest(rows: Sequence[Row]) -> str:
    """A fingerprint of rows."""
    encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode
    found = blake2b(digest_size=16)
    for row in rows:
        found.update(encode(row))
    return found.hexdigest()


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options within options, by names with dots between."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return found


def _refuse_other(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder's _config.json says beside its options; RunError where those are others than `asked`."""
    config = path / "_config.json"
    if not config.exists():
        if (path / "journal.sqlite").exists():
            raise CorruptStore(f"{path}: a journal without its _config.json; move it away to start anew")
        return {}
    try:
        before = msgspec.json.decode(config.read_bytes())
        version, known, facts = before["format"], flat(before["options"]), before.get("about", {})
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStore(f"{config}: damaged ({error}); move {path} away to start anew") from None
    if version != _FORMAT:
        raise RunError(f"{config}: of format {version}, this version writes {_FORMAT}; choose another folder")
    _compare(path, known, flat(asked))
    return dict(facts)


def _compare(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted(before.keys() | now.keys(), key=lambda name: (name != "optimizer", name)):
        old, new = before.get(name), now.get(name)
        if old != new and not (name == "generations" and new is not None and new >= old):
            raise RunError(
                f"{path} holds a run with {name}={_shown(old)}, now {name}={_shown(new)}; choose another folder"
            )


def _shown(value: Any) -> str:
    return words.short(_encode(value).decode(), 60)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be removed ({error.strerror})") from error


def _replace(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write a JSON file as a whole, unless it is there already; it is never seen in part, whatever ends the process."""
    data = msgspec.json.format(_encode(value), indent=2) + b"\n"
    with suppress(OSError):
        if not durable and path.read_bytes() == data:
            return
    with atomic_writer(path, durable=durable) as out:
        out.write(data)
