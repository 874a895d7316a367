"""What the files of a run folder say, of a run that is finished or not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from shoal.errors import CorruptStore, UsageError
from shoal.evolution.folder import Kept, new_mutation_prompts
from shoal.evolution.generation import Birth, Generation, best_of
from shoal.evolution.held_out import Comparison
from shoal.evolution.statistics import GenerationStats, OperatorStats, of_all
from shoal.evolution.unit import Scored, Unit

T = TypeVar("T")


class _Member(Scored, frozen=True):
    slot: int = 0


class _Tried(Struct, frozen=True):
    id: str


class _Log(Struct, frozen=True):
    units: tuple[_Tried, ...]
    births: tuple[Birth, ...] = ()


class _Config(Struct, frozen=True):
    options: dict[str, Any] = {}


class _Outcome(Struct, frozen=True):
    history: int
    ended: str
    comparison: Comparison | None = None


class Run(Struct, frozen=True):
    """A run as its folder has it, complete generations only; at least one.

    `options` are what it depends on, by name. `ended` is why it ended, None where it has not; `comparison` is with the
    seed prompt on held-out rows, where there is one.
    """

    kept: tuple[Kept, ...]
    options: dict[str, Any]
    ended: str | None = None
    comparison: Comparison | None = None

    @property
    def generations(self) -> list[Generation]:
        return [one.generation for one in self.kept]

    @property
    def stats(self) -> list[GenerationStats]:
        return [one.stats for one in self.kept]

    @property
    def best(self) -> Scored:
        """The fittest unit of the whole run."""
        return best_of(self.generations)

    @property
    def last(self) -> Generation:
        return self.kept[-1].generation

    @property
    def planned(self) -> int:
        """Generations that were asked for, after the founders'; those there are where it is not known."""
        asked = self.options.get("generations")
        return max(asked, self.last.number) if isinstance(asked, int) else self.last.number

    @property
    def seed_prompt(self) -> str:
        """The prompt that the result is compared with; "" where it is not known."""
        return str(self.about("task").get("seed_prompt") or "")

    def about(self, what: str) -> dict[str, Any]:
        """One of the groups of options."""
        found = self.options.get(what)
        return found if isinstance(found, dict) else {}

    def operators(self) -> dict[str, OperatorStats]:
        """What each operator did in the whole run."""
        return of_all(self.stats)

    def new_mutation_prompts(self) -> list[Unit]:
        """For each mutation prompt that founders did not have, the first unit that had it, in order."""
        founders = {scored.unit.mutation_prompt for scored in self.kept[0].generation.population}
        new = new_mutation_prompts(self.generations, sorted(founders))
        first: dict[str, Unit] = {}
        for generation in self.generations:
            for scored in generation.population:
                first.setdefault(scored.unit.mutation_prompt, scored.unit)
        return [first[prompt] for prompt in new]


def read(folder: Path) -> Run:
    """The run in a folder. UsageError where there is none, CorruptStore where a file of it is damaged."""
    config = folder / "_config.json"
    if not config.is_file():
        raise UsageError(f"{folder}: not the folder of a run of evolution (it has no _config.json)")
    kept = tuple(complete(folder))
    if not kept:
        raise UsageError(f"{folder}: no generation is complete yet")
    known = _decoded(config, _Config)
    outcome = _decoded(folder / "result.json", _Outcome) if (folder / "result.json").is_file() else None
    if outcome is None or outcome.history != len(kept):  # of an earlier end, from which the run went on
        return Run(kept, known.options)
    return Run(kept, known.options, outcome.ended, outcome.comparison)


def complete(folder: Path) -> Iterator[Kept]:
    """The complete generations of a folder, from the founders on as far as all files are there."""
    number = 0
    while True:
        log, stats = (folder / f"generation_{number}_{name}.json" for name in ("log", "stats"))
        if not log.is_file() or not stats.is_file():
            return
        told = _decoded(log, _Log)
        members = {
            member.unit.id: member
            for path in (folder / f"generation_{number}_population").glob("*.json")
            for member in [_decoded(path, _Member)]
        }
        if not told.units or any(unit.id not in members for unit in told.units):
            return
        population = tuple(members[unit.id] for unit in told.units)
        yield Kept(Generation(number, population, told.births), _decoded(stats, GenerationStats))
        number += 1


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, OSError) as error:
        raise CorruptStore(f"{path}: cannot be read ({error})") from None
