"""The candidates of a run of GEPA: what it asks of them, and what is known of those that it has added to its pool."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from shoal.batch.rows import Row
from shoal.errors import ShoalError
from shoal.evolution.fitness import OWN_FAULT, Outcome, attempt, ends_the_run
from shoal.evolution.surroundings import Breeding
from shoal.evolution.unit import Scored, Unit, Working
from shoal.runtime import frames
from shoal.runtime.concurrency import gather
from shoal.runtime.frames import Frame
from shoal.runtime.model import Model
from shoal.runtime.types import Request

Candidate = dict[str, str]  # texts by component: task_prompt, and system_prompt where the task has none
_REFLECTING = -2  # names the draws of reflections, beside those of questions


class Question(Struct, frozen=True):
    """A row that GEPA may ask. It looks at workings on those for training, and ranks candidates by the others."""

    row: Row
    validation: bool


class Answer(Struct, frozen=True):
    """What came of a question; None where a call failed: that is neither right nor wrong."""

    outcome: Outcome | None = None
    working: Working | None = None


def scores_of(answers: Sequence[Answer]) -> list[float | None]:
    """Question by question; None where a call failed."""
    return [answer.outcome[0] if answer.outcome is not None else None for answer in answers]


class RolloutsSpent(Exception):
    """What was asked for does not fit into the rollouts that are left: the run ends before it."""


class Pool:
    """What is asked, and how much may be: `most` rollouts, which are questions put to candidates."""

    def __init__(self, run: Breeding, most: int, reflecting: Model, params: Mapping[str, Any]) -> None:
        self.run = run
        self.most = most
        self.rollouts = 0
        self.failed = 0  # questions
        self.unwritten = 0  # texts that a reflection failed on
        self.told: Callable[[], None] = lambda: None  # called when something has been asked
        self._reflecting = reflecting
        self._params = params
        self._asked = self._reflected = self._written = 0  # batches, batches of reflections, replies
        self._known: dict[tuple[str, ...], tuple[Scored, list[float | None]]] = {}

    @property
    def left(self) -> int:
        return self.most - self.rollouts

    @property
    def seed(self) -> Candidate:
        """The seed prompt; where queries write the system prompt, an empty one."""
        parts = {"task_prompt": self.run.task.seed}
        return parts | ({"system_prompt": ""} if self.run.task.system_prompt is None else {})

    def unit(self, candidate: Mapping[str, str]) -> Unit:
        """A candidate as a unit that has no name yet."""
        system = candidate.get("system_prompt", self.run.task.system_prompt or "")
        return Unit("", (candidate["task_prompt"],), "", system)

    def validated(self, candidate: Mapping[str, str]) -> tuple[Scored, list[float | None]]:
        """What is known of a candidate, and its scores, question by question: None where a call failed."""
        return self._known[tuple(candidate.values())]

    async def evaluate(self, items: Sequence[tuple[Candidate, Sequence[Question]]]) -> list[list[Answer]]:
        """Ask each candidate its questions, all at once. A question counts as a rollout whatever comes of it.

        Where no question of a candidate has an answer, all are wrong if its prompt is to blame, as one that is too
        long; else the first failure is raised, and so it is where it is the first candidate.
        """
        if sum(len(questions) for _, questions in items) > self.left:
            raise RolloutsSpent
        self._asked += 1
        self.rollouts += sum(len(questions) for _, questions in items)
        places = [(self._asked, place) for place in range(len(items))]
        answers = await gather(*(self._one(*item, place) for item, place in zip(items, places, strict=True)))
        self.told()
        return answers

    async def _one(self, candidate: Candidate, asked: Sequence[Question], place: tuple[int, ...]) -> list[Answer]:
        unit, variant = self.unit(candidate), self.run.settings.variants[0]
        tried = await gather(*(attempt(unit, self.run, variant, question.row, place) for question in asked))
        failures = [one for one in tried if isinstance(one, ShoalError)]
        if len(failures) == len(tried) and not (self._known and isinstance(failures[0], OWN_FAULT)):
            raise failures[0]
        self.failed += len(failures)
        answers = [Answer() if isinstance(one, ShoalError) else Answer(*one) for one in tried]
        if asked[0].validation:
            self._know(candidate, unit, answers)
        return answers

    def _know(self, candidate: Candidate, unit: Unit, answers: Sequence[Answer]) -> None:
        outcomes = [answer.outcome for answer in answers if answer.outcome is not None]
        fitness = self.run.task.scorer.metric.of(outcomes) if outcomes else 0.0
        variants = {self.run.settings.variants[0]: fitness}
        failed = len(answers) - len(outcomes)
        scored = Scored(unit, fitness, len(outcomes), variants=variants, failed=failed)
        self._known[tuple(candidate.values())] = scored, scores_of(answers)

    async def reflect(self, prompts: Sequence[str]) -> list[str | None]:
        """The reflecting model's replies, asked for all at once; None for a prompt that it could not be asked.

        Where it has never given a reply, its failure is raised.
        """
        self._reflected += 1
        places = [(_REFLECTING, self._reflected, place) for place in range(len(prompts))]
        replies = await gather(*(self._reply(*asked) for asked in zip(prompts, places, strict=True)))
        texts = [None if isinstance(reply, ShoalError) else reply for reply in replies]
        failures = [reply for reply in replies if isinstance(reply, ShoalError)]
        self.unwritten += len(failures)
        self._written += len(texts) - len(failures)
        if failures and not self._written:
            raise failures[0]
        self.told()
        return texts

    async def _reply(self, prompt: str, place: tuple[int, ...]) -> str | ShoalError:
        try:
            with frames.entered(Frame(place)):
                asking = self._reflecting(Request.of(prompt, **self._params))
                return (await self.run.steps.do(asking)).text
        except ShoalError as error:
            if ends_the_run(error):
                raise
            return error
