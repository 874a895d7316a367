"""What a scorer is: how one answer is rated, what the rating needs, and the metric over all rows."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from shoal.batch.rows import Row
from shoal.batch.runner import Judge
from shoal.errors import UsageError
from shoal.evaluation.metrics import ACCURACY, Metric
from shoal.prompting.answers import extract
from shoal.runtime.model import Model
from shoal.runtime.types import Completion
from shoal.techniques.opening import bases, identities

# From an output, the short answer found in it, the target and the row it belongs to: a score from 0.0 to 1.0, or None
# where none could be had, which is not a score of 0.
Rate = Callable[[str, str | None, object, Row], Awaitable[float | None]]


async def _nothing() -> None:
    """What most scorers need before they begin."""


def _anything(_: object, __: Row) -> None:
    """Every target will do."""


class Scorer(Struct, frozen=True):
    """A way to rate answers.

    `kind` is what `extract` looks for in an output that comes without a short answer; `read`, where it is there, finds
    the answer first. `need` is awaited once before anything is spent and raises where the scorer cannot work here.
    `check` raises UsageError for a row's target that no answer can be compared with; without `needs_target` it does
    without one. `columns` are further columns that it reads, `models` what it asks, `version` tells two states of the
    user's code apart.
    """

    name: str
    rate: Rate
    kind: str = "auto"
    metric: Metric = ACCURACY
    read: Callable[[str], str | None] | None = None
    need: Callable[[], Awaitable[None]] = _nothing
    check: Callable[[object, Row], None] = _anything
    needs_target: bool = True
    columns: tuple[str, ...] = ()
    models: tuple[Model, ...] = ()
    version: str = ""

    async def score(self, completion: Completion, target: object, row: Row) -> tuple[str | None, float | None]:
        """The short answer, and its score; None for a score that could not be had."""
        answer = self.read(completion.text) if self.read is not None else None
        answer = answer or completion.answer or extract(completion.text, self.kind)
        return answer, await self.rate(completion.text, answer, target, row)

    def against(self, column: str | None) -> Judge:
        """What a batch rates its rows by: the column has the target."""

        async def judge(completion: Completion, row: Row) -> tuple[str | None, float | UnsetType]:
            target = None if column is None else row.get(column)
            answer, score = await self.score(completion, target, row)
            return answer, UNSET if score is None else score

        return judge

    def check_rows(self, rows: Iterable[Row], column: str | None) -> None:
        """UsageError naming the first row whose target no answer can be compared with."""
        if column is None and self.needs_target:
            raise UsageError(f"the scorer {self.name} needs the column with the expected answer")
        if column is None or self.check is _anything:
            return
        for number, row in enumerate(rows):
            try:
                self.check(row.get(column), row)
            except UsageError as error:
                raise UsageError(f"row {number}, column {column!r}: {error}") from None

    @property
    def identity(self) -> dict[str, Any]:
        """What its scores depend on: two runs with another of these are two runs."""
        return {"name": self.name, "version": self.version, "models": identities(list(self.models))}

    async def aclose(self) -> None:
        """Close the models that it asks."""
        for base in bases(list(self.models)):
            await base.aclose()


def name_of(row: Row) -> str:
    """A row as an error names it: by its id, else by how it begins."""
    return f"row {row['id']!r}" if "id" in row else f"the row {str(row)[:60]}"
