"""Whether an answer names the one right label among those a row offers: 1.0 or 0.0."""

import re
from functools import lru_cache

from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.scorers.rating import Scorer, name_of
from shoal.evaluation.scorers.texts import shown_end

# "not positive", "isn't a positive review", "nothing negative": what is denied is not named.
_DENIAL = re.compile(
    r"(?:\b(?:not|non|no|never|nothing|neither|nor|without|rather than|instead of)|n['’]t)"
    r"(?:[\s-]{1,3}(?:a|an|the|any|very|really|at all))?[\s*_\"'“‘`-]{1,6}$"
)


def label(*, labels: str = "options") -> Scorer:
    """The target is the only one of the row's labels that the answer names, as a whole word or phrase in any case.

    The column `labels` has the list of them, the target among them. Where the short answer names none, the output is
    looked at, after its reasoning. Naming two is no answer, so a reply that repeats the question's choices is wrong;
    "not negative" names none, and "very positive" not also "positive" where both are offered.
    """

    def check(target: object, row: Row) -> None:
        offered = row.get(labels)
        if not isinstance(offered, list) or target not in offered:
            raise UsageError(
                f"label: {name_of(row)} needs in the column {labels!r} a list of labels, the target among them"
            )

    async def rate(output: str, answer: str | None, target: object, row: Row) -> float:
        check(target, row)
        offered = tuple(map(str, row[labels]))
        named = (answer and _named(answer, offered)) or _named(shown_end(output), offered)
        return float(named == {str(target)})

    return Scorer("label", rate, check=check, columns=(labels,))


def _named(text: str, labels: tuple[str, ...]) -> set[str]:
    text = text.casefold()
    found = _pattern(labels).finditer(text)
    named = (match for match in found if not _DENIAL.search(text[max(0, match.start() - 40) : match.start()]))
    return {labels[int((match.lastgroup or "_0")[1:])] for match in named}


@lru_cache(256)
def _pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    """One group for each label; of two that begin at the same place the longer."""
    order = sorted(
        (place for place, label in enumerate(labels) if label.strip()), key=lambda place: -len(labels[place])
    )
    return re.compile("|".join(f"(?P<_{place}>{_phrase(labels[place])})" for place in order))


def _phrase(label: str) -> str:
    words = map(re.escape, re.split(r"[\s_-]+", label.strip().casefold()))
    return r"(?<!\w)" + r"[\s_-]{1,9}".join(words) + r"(?!\w)"
