"""Whether an answer names the one right label among those a row offers: 1.0 or 0.0."""

import re
from collections.abc import Sequence

from shoal.batch.rows import Row
from shoal.errors import UsageError

OPTIONS = "options"


async def same_label(output: str, answer: str | None, target: object, row: Row) -> float:
    """The target is the only label that is named: in the short answer, or, where that names none, in the output.

    Labels are whole words (or phrases) whatever their case. Naming two is no answer, so a reply that repeats the
    question's choices scores nothing. The row's `options` are the labels; UsageError where it has none.
    """
    labels = row.get(OPTIONS)
    if not isinstance(labels, list) or target not in labels:
        raise UsageError(f"the scorer label needs a column {OPTIONS!r} with a list of labels, the target among them")
    named = (answer and _named(answer, labels)) or _named(output, labels)
    return float(named == {str(target)})


def _named(text: str, labels: Sequence[object]) -> set[str]:
    return {label for label in map(str, labels) if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE)}
