"""From finished arms to what they show: figures, differences, costs, curves and one real row."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, Struct, structs

from shoal.batch.records import Record
from shoal.errors import UsageError
from shoal.evaluation.comparing import result
from shoal.evaluation.comparing.budgeting import EqualBudget
from shoal.evaluation.comparing.costs import Prices, Spent, cost_of
from shoal.evaluation.comparing.curves import curve
from shoal.evaluation.comparing.result import Comparison, Difference, Point
from shoal.evaluation.comparing.sizes import size_of
from shoal.evaluation.comparing.statistics import Figures, Rated, holm
from shoal.evaluation.comparing.travelling import price_notes
from shoal.evaluation.comparing.work import Arm, Asked, Work
from shoal.runtime.concurrency import gather
from shoal.runtime.types import Request
from shoal.traces import words
from shoal.traces.data import Failure

_LONGEST = 2_000  # characters of a text in the example
_SHORT = 160  # of an error


class Finished(Struct, frozen=True):
    """The arms that ended well, and what is known of each. `kept`: the rows on which all of them have a score."""

    work: Work
    arms: list[Arm]
    records: list[list[Record]]
    kept: list[int]
    figures: Figures
    spent: list[Spent]

    @property
    def draws(self) -> set[bytes]:
        """The keys of all draws that the arms asked for."""
        return set().union(*(spent.keys for spent in self.spent))

    @classmethod
    def of(cls, work: Work) -> "Finished":
        work.pool.survey()
        arms = [arm for arm in work.arms if arm.error is None]
        records = [arm.records() for arm in arms]
        kept = [i for i, rows in enumerate(zip(*records, strict=True)) if all(map(_has_score, rows))]
        if not kept:
            raise UsageError(f"the scorer {work.asked.scorer.name} came to a score on no row")
        figures = Figures(work.asked.scorer.metric, [_rated(work.asked, [each[i] for i in kept]) for each in records])
        return cls(work, arms, records, kept, figures, [cost_of(arm, work.pool, work.latencies) for arm in arms])


async def made(
    work: Work, prices: Prices, *, title: str, equal: EqualBudget | None, notes: Sequence[str]
) -> Comparison:
    """The comparison that the finished arms of `work` come to."""
    finished = Finished.of(work)
    arms = _on_frontier(await gather(*(_arm(finished, i, prices) for i in range(len(finished.arms)))))
    asked = work.asked
    return Comparison(
        title,
        asked.rows.label,
        len(finished.kept),
        asked.scorer.metric.name,
        asked.scorer.name,
        ", ".join(dict.fromkeys(arm.candidate.base for arm in finished.arms)),
        tuple(arms),
        tuple(_differences(finished)),
        None if equal is None else str(equal),
        (
            *(*notes, *_notes(finished, arms), *price_notes(work.pool, finished.draws, prices.by_batch)),
            *(_within(finished, equal, prices) if equal else ()),
        ),
        datetime.now(UTC).isoformat(timespec="seconds"),
        _example(finished),
    )


def _has_score(record: Record) -> bool:
    """A failed row is wrong; one that the scorer has no verdict on is neither right nor wrong."""
    return record.error is not None or record.score is not UNSET


def _rated(asked: Asked, records: Sequence[Record]) -> Rated:
    scores = [_score(record) for record in records]
    parts = [
        asked.scorer.metric.parts(score, record.answer, asked.wanted(record.input))
        for score, record in zip(scores, records, strict=True)
    ]
    return Rated(scores, parts)


def _score(record: Record) -> float:
    return 0.0 if record.score is UNSET else record.score


async def _arm(finished: Finished, i: int, prices: Prices) -> result.Arm:
    arm, spent = finished.arms[i], finished.spent[i]
    value, interval, usage = finished.figures.value(i), finished.figures.interval(i), spent.usage
    rows = arm.batch.rows.count
    size = size_of(arm.candidate.model)
    whole = Point(size.value if size else 1, value, interval, usage.total_tokens / rows, usage.calls / rows)
    return result.Arm(
        arm.name,
        arm.candidate.spec,
        len(finished.kept),
        sum(finished.records[i][k].error is not None for k in finished.kept),
        value,
        interval,
        usage.calls,
        spent.requests,
        usage.prompt_tokens,
        usage.completion_tokens,
        spent.paid,
        spent.seconds,
        prices.dollars(spent.usages),
        frontier=False,
        curve=await curve(finished.work, arm, finished.kept, whole),
        asked=rows,
    )


def _on_frontier(arms: Sequence[result.Arm]) -> list[result.Arm]:
    """One that failed on every row spent little for want of answers, which is no way to be cheap."""
    answering = [arm for arm in arms if arm.answered]
    frontier = [arm.name for arm in answering if not any(_beats(other, arm) for other in answering)]
    return [structs.replace(arm, frontier=arm.name in frontier) for arm in arms]


def _beats(other: result.Arm, arm: result.Arm) -> bool:
    """Whether another is as good for as few tokens, and in one of them better."""
    theirs, its = (other.value, -other.tokens), (arm.value, -arm.tokens)
    return theirs[0] >= its[0] and theirs[1] >= its[1] and theirs != its


def _differences(finished: Finished) -> list[Difference]:
    """Of every pair, the earlier arm first; p adjusted for being several among those with the first arm."""
    names = [arm.name for arm in finished.arms]
    found = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            test = finished.figures.test(i, j)
            found.append(
                Difference(names[i], names[j], test.value, test.interval, test.p, test.wins, test.losses, test.ties)
            )
    first = found[: len(names) - 1]
    adjusted = holm([each.p for each in first])
    return [structs.replace(each, adjusted=p) for each, p in zip(first, adjusted, strict=True)] + found[len(first) :]


def _notes(finished: Finished, arms: Sequence[result.Arm]) -> list[str]:
    """What a reader of the figures must know."""
    notes = []
    asked = finished.work.asked
    if asked.left_out:
        notes.append(f"{words.plural(asked.left_out, 'row')} without a target in {asked.target!r} left out")
    unscored = asked.rows.count - len(finished.kept)
    if unscored:
        notes.append(f"{words.plural(unscored, 'row')} left out: the scorer came to no score for one of the arms")
    for arm, records in zip(finished.arms, finished.records, strict=True):
        notes += _failures(arm, [record.error for record in records if record.error is not None])
    notes += [f"{arm.name} is left out: {arm.error}" for arm in finished.work.arms if arm.error is not None]
    for arm, shown in zip(finished.arms, arms, strict=True):
        sizes = {point.n for point in shown.curve}
        lacking = [str(n) for n in arm.candidate.sizes if n not in sizes]
        if lacking:
            size = size_of(arm.candidate.model)
            notes.append(
                f"{arm.name}: no point at {size.option if size else 'n'}={', '.join(lacking)}, "
                "where it asks for what the larger size did not"
            )
    alone = sum(arm.tokens for arm in arms)
    paid = finished.work.pool.paid(finished.draws)
    if paid < alone:
        notes.append(f"{words.count(paid)} tokens paid for all arms together; each alone: {words.count(alone)}")
    if any(spent.usage.estimated for spent in finished.spent):
        notes.append("a server did not report its usage: tokens are estimated")
    return notes


def _failures(arm: Arm, errors: Sequence[Failure]) -> list[str]:
    """How many rows of an arm failed, of what, and what the first of the most common kind said."""
    if not errors:
        return []
    kinds = Counter(error.type for error in errors).most_common(3)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds)
    said = next(error.message for error in errors if error.type == kinds[0][0])
    many = words.plural(len(errors), "row")
    notes = [f"{arm.name}: {many} failed and count as wrong ({told}): {words.short(said, _SHORT)}"]
    if arm.candidate.sizes:
        notes.append(
            f"{arm.name}: rows that failed count as wrong at its smaller sizes, too, which might have done better"
        )
    return notes


def _within(finished: Finished, equal: EqualBudget, prices: Prices) -> list[str]:
    """What each arm really cost, against the budget."""
    notes = []
    for arm, spent in zip(finished.arms, finished.spent, strict=True):
        cost = equal.cost(spent.usages, prices) / arm.batch.rows.count
        place = "within" if cost <= equal.amount else "over"
        sized = "" if size_of(arm.candidate.model) else "; it has one size only"
        notes.append(f"{arm.name}: {equal.shown(cost)} a row, {place} the budget of {equal.shown(equal.amount)}{sized}")
    return notes


def _example(finished: Finished) -> dict[str, Any]:
    """The first row on which the arms differ, or simply the first."""
    if not finished.kept:
        return {}
    asked = finished.work.asked
    differing = (i for i in finished.kept if len({_score(each[i]) for each in finished.records}) > 1)
    number = next(differing, finished.kept[0])
    row = finished.records[0][number].input
    answers = {arm.name: _answer(each[number]) for arm, each in zip(finished.arms, finished.records, strict=True)}
    prompt = _readable(asked.request_of(row))
    return {
        "row": finished.records[0][number].id,
        "prompt": prompt,
        "target": asked.wanted(row),
        "answers": answers,
    }


def _answer(record: Record) -> dict[str, Any]:
    if record.error is not None:
        return {"answer": f"{record.error.type}: {record.error.message}", "score": 0.0}
    said = record.answer if record.answer is not None else str(record.output)
    return {"answer": said[:_LONGEST], "score": _score(record)}


def _readable(request: Request) -> str:
    """A conversation of one turn as its text, a longer one turn by turn."""
    if request.prompt is not None or len(request.messages) == 1:
        return request.text[:_LONGEST]
    return "\n\n".join(f"{message.role}: {message.text}" for message in request.messages)[:_LONGEST]
