"""What a comparison will cost, before it is made: each arm as if alone, and all of them on one pool of draws."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from shoal.backends.prices import Price
from shoal.batch.rows import Row
from shoal.errors import NotCached, ShoalError
from shoal.evaluation.comparing.arms import Candidate
from shoal.evaluation.comparing.joining import joined
from shoal.evaluation.comparing.pool import Keeper, Pool
from shoal.evaluation.comparing.sizes import resized, size_of
from shoal.evaluation.comparing.work import Asked
from shoal.planning import Figure, Pilot, Plan, plan
from shoal.planning.dry_run import Kept
from shoal.planning.waves import Travel
from shoal.runtime import replay, scope
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request

Rate = Callable[[Completion, Row], Awaitable[object]]


class ArmPlan(Struct, frozen=True):
    """One arm as if it were run alone, on draws of its own. What rates its answers is no part of it."""

    name: str
    plan: Plan


class Sizing(Struct, frozen=True):
    """What an equal budget does first: `calls` on `rows` rows, to find each technique's size.

    `sizes` has the smallest and the largest that may come of it, by technique; both are one where it is known. `tries`
    are the sizes of one technique that are tried, one after another.
    """

    rows: int
    calls: Figure
    sizes: dict[str, tuple[int, int]]
    tries: Figure = Figure(0, 0, "exact")


class ComparisonPlan(Struct, frozen=True):
    """What remains of a comparison: every arm alone, and `total`, which is what is paid."""

    arms: tuple[ArmPlan, ...]
    total: Plan
    sizing: Sizing | None = None


class Terms(Struct, frozen=True):
    """What holds for all plans of one comparison. `kept` look up draws of the report directory; `pool` keeps those of a
    `pilot`, which is run for real. `travel` says how calls travel that go by a batch API."""

    asked: Asked
    prices: Mapping[str, Price]
    kept: Sequence[Kept] = ()
    pilot: Pilot | None = None
    pool: Pool | None = None
    travel: Travel | None = None


async def plan_arms(terms: Terms, arms: Sequence[Candidate]) -> ComparisonPlan:
    """The plan of a comparison of these arms. Raises as `planning.plan` does."""
    total = await plan_total(terms, arms, lambda arm: (arm.model,))
    alone = await _each_alone(terms, arms)
    return ComparisonPlan(alone, joined_total(terms, arms, total, [arm.plan for arm in alone]))


def joined_total(terms: Terms, arms: Sequence[Candidate], total: Plan, alone: Sequence[Plan]) -> Plan:
    """The total, held to what the arms allow together. A pilot, and a model that rates, tell of more than the arms."""
    return total if terms.pilot or terms.asked.scorer.models or len(arms) < 2 else joined(total, alone)


# The models of an arm that the row in hand is put to: its own, and sizes that it is tried at.
ModelsOf = Callable[[Candidate], Sequence[Model]]


async def plan_total(
    terms: Terms, arms: Sequence[Candidate], models_of: ModelsOf, rows: Sequence[Row] | None = None
) -> Plan:
    """All arms on one pool; on `rows`, or on all of them."""
    judges = list(terms.asked.scorer.models)
    return await plan(
        _program(terms, arms, models_of, rated=bool(judges)),
        terms.asked.rows if rows is None else rows,
        models=[*(model for arm in arms for model in models_of(arm)), *judges],
        steady=not judges,
        kept=terms.kept,
        prices=terms.prices,
        pilot=terms.pilot,
    )


async def _each_alone(terms: Terms, arms: Sequence[Candidate]) -> tuple[ArmPlan, ...]:
    return tuple([ArmPlan(arm.name, await plan_alone(terms, arm.model)) for arm in arms])


async def plan_alone(terms: Terms, model: Model, rows: Sequence[Row] | None = None) -> Plan:
    """One arm's model by itself; on `rows`, or on all of them."""
    asked = terms.asked
    return await plan(
        lambda row: model(asked.request_of(row)),
        asked.rows if rows is None else rows,
        models=[model],
        prices=terms.prices,
        pilot=terms.pilot,
    )


def _program(
    terms: Terms, arms: Sequence[Candidate], models_of: ModelsOf, *, rated: bool
) -> Callable[[Row], Awaitable[Completion]]:
    """What is done with a row: all arms at once, and then, where models rate answers, those of the arms and of their
    curves."""
    rate = _rating(terms)

    async def program(row: Row) -> Completion:
        request = terms.asked.request_of(row)
        models = [model for arm in arms for model in models_of(arm)]
        answers = await gather(*(_answer(model, request) for model in models))
        found = [answer for answer in answers if isinstance(answer, Completion)]
        if rated:
            for arm in arms:
                found += await _curve(arm, request)
            await gather(*(rate(answer, row) for answer in found))
        for answer in answers:
            if isinstance(answer, ShoalError):
                raise answer
        return found[0] if found else Completion("")

    return program


async def _answer(model: Model, request: Request) -> Completion | ShoalError:
    """The error of an arm that fails: the others go on."""
    try:
        return await model(request)
    except ShoalError as error:
        return error


async def _curve(arm: Candidate, request: Request) -> list[Completion]:
    """The answers of an arm's smaller sizes, on the draws that are there."""
    size = size_of(arm.model)
    found: list[Completion] = []
    for n in arm.sizes if size is not None else ():
        assert size is not None
        for piece in range(size.value // n if size.exchangeable else 1):
            with scope.setting(replay.offline, True):
                try:
                    found.append(await resized(arm.model, n, piece * n)(request))
                except NotCached:
                    break
                except ShoalError:  # wrong at this size, and not rated
                    continue
    return found


def _rating(terms: Terms) -> Rate:
    """The scorer; what it asks in a pilot is kept in the pool, where the comparison will look for it."""
    judge = terms.asked.scorer.against(terms.asked.target)

    async def rate(completion: Completion, row: Row) -> object:
        if terms.pool is None:
            return await judge(completion, row)
        with scope.setting(replay.current, Keeper(terms.pool)):
            return await judge(completion, row)

    return rate
