"""How fit a unit is: the share of questions that its prompts lead to the right answer on."""

from collections.abc import Sequence
from random import Random

from msgspec import structs

from shoal.batch.rows import Row
from shoal.errors import BudgetExceeded, InvalidOutput, NotCached, ShoalError, StoreError
from shoal.evolution.surroundings import Breeding
from shoal.evolution.unit import Scored, Unit, Working
from shoal.runtime import frames
from shoal.runtime.concurrency import gather
from shoal.runtime.frames import Frame
from shoal.runtime.types import Completion

_Result = tuple[float, str | None, object]  # of a question: score, short answer, target
_ENDS_THE_RUN = (BudgetExceeded, StoreError, NotCached)


async def evaluate(unit: Unit, run: Breeding, place: tuple[int, ...], random: Random, before: Scored | None) -> Scored:
    """The unit on a batch of questions, in each variant, all at once.

    `before` is what was known of it, or of its parent. A question that a call failed on is left out; where all fail,
    the first failure is raised.
    """
    rows = _questions(run, random)
    names = run.settings.variants
    tried = await gather(*(_variant(unit, run, name, rows, place) for name in names))
    variants = dict(zip(names, tried, strict=True))
    fitness = {name: run.task.scorer.metric.of(results) for name, (results, _) in variants.items()}
    best = max(fitness, key=lambda name: fitness[name])
    results, workings = variants[best]
    return Scored(unit, fitness[best], len(results), workings or (before.workings if before else ()), fitness, place[0])


def _questions(run: Breeding, random: Random) -> Sequence[Row]:
    rows, batch = run.task.rows, run.settings.batch
    return rows if batch is None or batch >= len(rows) else random.sample(list(rows), batch)


async def _variant(
    unit: Unit, run: Breeding, variant: str, rows: Sequence[Row], place: tuple[int, ...]
) -> tuple[list[_Result], tuple[Working, ...]]:
    tried = await gather(*(_tried(unit, run, variant, row, place) for row in rows))
    answered = [one for one in tried if not isinstance(one, ShoalError)]
    if not answered:
        raise next(one for one in tried if isinstance(one, ShoalError))
    return [result for result, _ in answered], tuple(working for result, working in answered if result[0] >= 1.0)


async def _tried(
    unit: Unit, run: Breeding, variant: str, row: Row, place: tuple[int, ...]
) -> tuple[_Result, Working] | ShoalError:
    task, decoders = run.task, run.task.decoders
    question = task.question.fill(row)
    try:
        with frames.entered(Frame(place if sampled(run) else ())):
            written = await run.queries.write(
                "fitness",
                question=question,
                task_prompts=unit.task_prompts,
                system_prompt=unit.system_prompt,
                contexts=[structs.asdict(working) for working in unit.contexts],
                variant=variant,
                inducer=decoders.inducer,
                evaluator=decoders.evaluator,
            )
            target = row[task.target]
            answer, score = await task.scorer.score(Completion(str(written["answer"])), target, row)
    except _ENDS_THE_RUN:
        raise
    except ShoalError as error:
        return error
    if score is None:
        return InvalidOutput(f"{task.scorer.name} came to no score of the answer to {question[:60]!r}")
    return (score, answer, target), Working(question, written.text)


def sampled(run: Breeding) -> bool:
    """Whether asking again may give another answer. If not, equal questions are one draw in the whole run."""
    roles = (run.task.decoders.inducer, run.task.decoders.evaluator)
    return any(role.get("temperature", 1.0) != 0 for role in roles)
