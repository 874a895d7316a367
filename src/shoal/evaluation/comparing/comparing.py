"""One comparison from what is wanted to what was found, in its directory."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.config import Config
from shoal.batch.directory import DirectoryLock, atomic_writer, hold_config, write_lines
from shoal.batch.records import encode as encode_row
from shoal.batch.rows import Input, Row
from shoal.batch.waves import by_batch_api
from shoal.errors import UsageError
from shoal.evaluation.comparing.arms import Wanted, candidates
from shoal.evaluation.comparing.budgeting import EqualBudget, Pilot, fitted
from shoal.evaluation.comparing.costs import Prices
from shoal.evaluation.comparing.making import made
from shoal.evaluation.comparing.pool import Pool
from shoal.evaluation.comparing.result import Comparison, encode
from shoal.evaluation.comparing.statistics import require
from shoal.evaluation.comparing.travelling import ReportDirectory, travelling
from shoal.evaluation.comparing.work import Asked, Work
from shoal.evaluation.scorers import Scorer
from shoal.planning.checking import refuse_impossible
from shoal.runtime import replay, scope
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache
from shoal.runtime.model import Model
from shoal.techniques.opening import bases, refuse_unpriced

if TYPE_CHECKING:
    from shoal.backends.waves import Wave, WaveSettings


class Settings(Struct, frozen=True):
    """How a comparison is made.

    `equal` is what a row may cost each technique, found on `pilot` rows; `budget` bounds all that is spent; with
    `offline` nothing is asked: every draw must be in the directory already. `notes` are added to the result's. With
    `waves` calls travel by the provider's batch API, and `tell` is called when a wave has left and when it is back.
    """

    config: Config
    title: str = ""
    equal: EqualBudget | None = None
    pilot: int = 10
    budget: Budget | None = None
    offline: bool = False
    notes: tuple[str, ...] = ()
    waves: "WaveSettings | None" = None
    tell: "Callable[[Wave], None] | None" = None


class Comparing:
    """A comparison in a directory of its own, held by one process. Use as a context manager, then `await` its `run`.

    Raises UsageError for what cannot be compared before anything is asked, RunError where the directory holds a
    comparison on other rows or with another prompt. Techniques and scorers may change from one time to the next: what
    they have in common is not asked again.
    """

    def __init__(self, asked: Asked, wanted: Wanted, directory: Path, settings: Settings) -> None:
        require()
        self.settings = settings
        self.directory = directory
        self._open = ExitStack()
        try:
            lock = DirectoryLock(directory, "a report directory")
            self._open.callback(lock.release)
            hold_config(directory, asked.identity, asked.rows, "--report-dir")
            # A wave's answers are forgotten once they are here.
            cache = DrawCache(directory / "draws.sqlite", unkept=frozenset(), durable=settings.waves is not None)
            self._open.callback(cache.close)
            self.home = ReportDirectory(directory, cache)
            self.candidates = candidates(wanted, cache, settings.config)
            self.judges = list(asked.scorer.models)
            by_batch = travelling(self.compared, self.judges) if settings.waves else []
            models = {base.backend.identity: base for base in self.models}
            self.prices = Prices(settings.config, models, {base.backend.identity for base in by_batch})
            if settings.equal is not None and settings.equal.unit == "dollars":
                self.prices.check()
            asleep = settings.waves.rows if settings.waves else None
            self.work = self._open.enter_context(Work(asked, Pool(cache, models), directory, settings.budget, asleep))
            self.work.latencies.watch(self.models)
        except BaseException:
            self._open.close()
            raise
        given = {id(base.backend) for model in wanted.models if not isinstance(model, str) for base in bases(model)}
        self._mine = [base for base in self.models if id(base.backend) not in given]

    @property
    def compared(self) -> list[Model]:
        """The models of the arms."""
        return [candidate.model for candidate in self.candidates]

    @property
    def models(self) -> list[BaseModel]:
        """The base models that are asked."""
        return list(bases(self.compared))

    def __enter__(self) -> "Comparing":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    async def run(self) -> Comparison:
        """Run all arms to their end and see what they come to; kept as comparison.json.

        UsageError for a technique that cannot work with its options, before anything is asked; BudgetExceeded where
        the budget is spent or the work interrupted: the same comparison goes on from there.
        """
        scorer = self.work.asked.scorer
        refuse_unpriced(self.settings.budget, [*self.compared, *self.judges])
        await scorer.need()
        for candidate in self.candidates:
            await refuse_impossible(candidate.model)
        try:
            comparison = await self._asking()
        finally:
            for base in self._mine:
                await base.aclose()
        with atomic_writer(self.directory / "comparison.json") as out:
            out.write(encode(comparison))
        return comparison

    async def _asking(self) -> Comparison:
        """Ask live, by the batch API, or nothing at all."""
        if self.settings.offline:
            with scope.setting(replay.offline, True):
                return await self._run()
        async with by_batch_api([*self.compared, *self.judges], self.home, self.settings.waves, self.settings.tell):
            return await self._run()

    async def _run(self) -> Comparison:
        settings, equal, notes = self.settings, self.settings.equal, list(self.settings.notes)
        found = self.candidates
        if equal is not None:
            pilot = Pilot(self.work, equal, self.prices, settings.pilot)
            found, said = await fitted(found, pilot, self.directory / "sizes.json")
            notes += said
        self.work.add(found)
        await self.work.run()
        title = (
            settings.title
            or f"{Path(self.work.asked.rows.label).name}: {', '.join(arm.name for arm in self.work.arms)}"
        )
        return await made(self.work, self.prices, title=title, equal=equal, notes=notes)


def with_targets(rows: Input, scorer: Scorer, column: str | None, scratch: Path) -> tuple[Input, int]:
    """The rows that can be rated, and how many have no target to be rated by.

    UsageError where none has one, or one has a target that no answer can be compared with.
    """
    left_out = 0
    if column is not None and scorer.needs_target:
        rows, left_out = _with_targets(rows, column, scratch)
    scorer.check_rows(rows, column)
    return rows, left_out


def _with_targets(rows: Input, column: str, scratch: Path) -> tuple[Input, int]:
    kept = [row for row in rows if has_target(row, column)]
    left_out = rows.count - len(kept)
    if not kept:
        raise UsageError(f"{rows.label}: no row has a target in column {column!r}")
    if not left_out:
        return rows, 0
    path = scratch / "with_targets.jsonl"
    write_lines(path, map(encode_row, kept))
    return Input(path, label=rows.label), left_out


def has_target(row: Row, column: str) -> bool:
    """Whether a row says what the answer should be."""
    value = row.get(column)
    return value is not None and not (isinstance(value, str) and not value.strip())
