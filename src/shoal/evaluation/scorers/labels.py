"""Whether an answer names the one right label among those a row offers: 1.0 or 0.0."""

import re
from collections.abc import Sequence

from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.scorers.rating import Scorer, name_of


def label(*, labels: str = "options") -> Scorer:
    """The target is the only one of the row's labels that the answer names, as a whole word or phrase in any case.

    The column `labels` has the list of them, the target among them. Where the short answer names none, the output is
    looked at. Naming two is no answer, so a reply that repeats the question's choices is wrong.
    """

    async def rate(output: str, answer: str | None, target: object, row: Row) -> float:
        offered = row.get(labels)
        if not isinstance(offered, list) or target not in offered:
            raise UsageError(
                f"label: {name_of(row)} needs in the column {labels!r} a list of labels, the target among them"
            )
        named = (answer and _named(answer, offered)) or _named(output, offered)
        return float(named == {str(target)})

    return Scorer("label", rate, columns=(labels,))


def _named(text: str, labels: Sequence[object]) -> set[str]:
    return {label for label in map(str, labels) if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE)}
