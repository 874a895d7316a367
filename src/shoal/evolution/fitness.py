"""How fit a unit is: the share of questions that its prompts lead to the right answer on."""

from collections.abc import Sequence
from random import Random

from msgspec import structs

from shoal.batch.rows import Row
from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    CertificateError,
    InvalidOutput,
    NotCached,
    QuotaExceeded,
    ShoalError,
    StoreError,
    TechniqueError,
    UsageError,
)
from shoal.evolution.surroundings import Breeding
from shoal.evolution.unit import Scored, Unit, Working
from shoal.prompting.composing.writing import Rendered
from shoal.runtime import frames
from shoal.runtime.concurrency import gather
from shoal.runtime.frames import Frame
from shoal.runtime.types import Completion

Outcome = tuple[float, str | None, object]  # of a question: score, short answer, target
_ENDS_THE_RUN = (StoreError, NotCached, QuotaExceeded, AuthenticationFailed, CertificateError)
# A unit whose every call fails so may be to blame itself: its prompts are too long, or lead to nothing that is of use.
OWN_FAULT = (BadRequest, TechniqueError, InvalidOutput)
_LONGEST = 20_000  # characters of a working that is kept: units are kept with theirs, in every generation


def ends_the_run(error: ShoalError) -> bool:
    """Whether an error would befall every other call, too: no answer and no mutation is to be had any more."""
    return isinstance(error, _ENDS_THE_RUN) or type(error) is UsageError  # as of a query that is wrong


async def evaluate(unit: Unit, run: Breeding, place: tuple[int, ...], random: Random, before: Scored | None) -> Scored:
    """The unit on a batch of questions, in each variant, all at once.

    `before` is what was known of it, or of its parent. A question that a call failed on is left out; where all fail,
    the first failure is raised.
    """
    rows, names = _questions(run, random), run.settings.variants
    asked = await gather(*(_variant(unit, run, name, rows, place) for name in names))
    variants = dict(zip(names, asked, strict=True))
    outcomes = {name: [one[0] for one in tried if not isinstance(one, ShoalError)] for name, tried in variants.items()}
    metric = run.task.scorer.metric
    fitness = {name: metric.of(results) for name, results in outcomes.items() if results}
    failures = [one for tried in asked for one in tried if isinstance(one, ShoalError)]
    if not fitness:
        raise failures[0]
    best = max(fitness, key=lambda name: fitness[name])
    right = tuple(one[1] for one in variants[best] if not isinstance(one, ShoalError) and _worth_keeping(*one))
    workings = right or (before.workings if before else ())
    return Scored(unit, fitness[best], len(outcomes[best]), workings, fitness, place[0], len(failures))


def _worth_keeping(outcome: Outcome, working: Working) -> bool:
    return outcome[0] >= 1.0 and len(working.text) <= _LONGEST


def _questions(run: Breeding, random: Random) -> Sequence[Row]:
    rows, batch = run.task.rows, run.settings.batch
    return rows if batch is None or batch >= len(rows) else random.sample(list(rows), batch)


async def _variant(
    unit: Unit, run: Breeding, variant: str, rows: Sequence[Row], place: tuple[int, ...]
) -> list[tuple[Outcome, Working] | ShoalError]:
    return await gather(*(attempt(unit, run, variant, row, place) for row in rows))


async def attempt(
    unit: Unit, run: Breeding, variant: str, row: Row, place: tuple[int, ...]
) -> tuple[Outcome, Working] | ShoalError:
    """One question put to a unit: what came of it, and the working; or the error of the call that failed."""
    try:
        return await run.steps.do(_answered(unit, run, variant, row, place))
    except ShoalError as error:
        if ends_the_run(error):
            raise
        return error


async def _answered(
    unit: Unit, run: Breeding, variant: str, row: Row, place: tuple[int, ...]
) -> tuple[Outcome, Working]:
    task, decoders = run.task, run.task.decoders
    question = task.question.fill(row)
    with frames.entered(Frame(place if sampled(run) else ())):
        written = await run.queries.write(
            "fitness",
            question=question,
            row={name: value for name, value in row.items() if name != task.target},
            task_prompts=unit.task_prompts,
            system_prompt=unit.system_prompt,
            contexts=[structs.asdict(one) for one in unit.contexts if one.question != question],
            variant=variant,
            inducer=decoders.inducer,
            evaluator=decoders.evaluator,
        )
        target = row[task.target]
        answer, score = await task.scorer.score(Completion(str(written["answer"])), target, row)
    if score is None:
        raise InvalidOutput(f"{task.scorer.name} came to no score of the answer to {question[:60]!r}")
    run.steps.questions += 1
    return (score, answer, target), Working(question, _worked(written))


def _worked(written: Rendered) -> str:
    """What the model wrote for a question, turn by turn; no prompt is in it."""
    turns = [message.text for message in written.messages if message.role == "assistant"]
    texts = turns or [str(written[name]) for name in ("working", "answer") if name in written.outputs]
    return "\n".join(text.strip() for text in texts if text.strip())


def sampled(run: Breeding) -> bool:
    """Whether asking again may give another answer. If not, equal questions are one draw in the whole run."""
    roles = (run.task.decoders.inducer, run.task.decoders.evaluator)
    return any(role.get("temperature", 1.0) != 0 for role in roles)
