"""How answers are rated: scorers by name, each from 0.0 to 1.0 a row, and the metric over all rows."""

from collections.abc import Awaitable, Callable

from msgspec import UNSET, Struct, UnsetType

from shoal.batch.rows import Row
from shoal.batch.runner import Judge
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.metrics import ACCURACY, Metric
from shoal.evaluation.scorers.answers import exact, same_choice, same_number
from shoal.evaluation.scorers.labels import same_label
from shoal.evaluation.scorers.puzzles import solved
from shoal.prompting.answers import extract
from shoal.runtime.types import Completion

# From an output, the short answer found in it, the target and the row it belongs to: a score.
Rate = Callable[[str, str | None, object, Row], Awaitable[float]]


class Scorer(Struct, frozen=True):
    """A way to rate answers. `kind` is what `extract` looks for in an output that comes without a short answer."""

    name: str
    rate: Rate
    kind: str = "auto"
    metric: Metric = ACCURACY

    async def score(self, completion: Completion, target: object, row: Row) -> tuple[str | None, float]:
        """The short answer, and its score."""
        answer = completion.answer or extract(completion.text, self.kind)
        return answer, await self.rate(completion.text, answer, target, row)

    def against(self, column: str) -> Judge:
        """What a batch rates its rows by: the column has the target."""

        async def judge(completion: Completion, row: Row) -> tuple[str | None, float]:
            return await self.score(completion, row.get(column), row)

        return judge


SCORERS: dict[str, Scorer] = {
    "exact": Scorer("exact", exact),
    "number": Scorer("number", same_number, "number"),
    "choice": Scorer("choice", same_choice, "choice"),
    "label": Scorer("label", same_label),
    "puzzle": Scorer("puzzle", solved),
}


def open_scorer(spec: str) -> Scorer:
    """The scorer that `spec` names; UsageError names what is near."""
    if spec not in SCORERS:
        raise UsageError(f"unknown scorer {spec!r}; {did_you_mean(spec, SCORERS)}")
    return SCORERS[spec]


async def unscored(completion: Completion, _: Row) -> tuple[str | None, UnsetType]:
    """The judge of rows that there is no target for."""
    return completion.answer or extract(completion.text), UNSET
