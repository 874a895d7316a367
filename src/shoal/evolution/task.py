"""What prompts are bred for: a problem in words, questions with their answers, and how answers are rated."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from shoal.batch.rows import Row
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.scorers import Scorer
from shoal.prompting.template import Template


class Decoders(Struct, frozen=True):
    """How each of the three roles samples, as sampling parameters; the paper's values are the defaults.

    The Redescriber writes prompts (its temperature is a unit's own unless given here), the Inducer the working that the
    first task prompt asks for, the Evaluator the answer.
    """

    redescriber: Mapping[str, Any] = field(default_factory=lambda: {"max_tokens": 50})
    inducer: Mapping[str, Any] = field(default_factory=lambda: {"max_tokens": 30, "temperature": 0.0})
    evaluator: Mapping[str, Any] = field(default_factory=lambda: {"max_tokens": 5, "temperature": 0.0})


class Task(Struct, frozen=True):
    """A problem to breed prompts for.

    `description` is the problem in words, as the mutators see it. `rows` are the questions that fitness is measured on,
    `held_out` others that only the result is tried on. `question` is a template over a row's columns, `target` the
    column with the answer. `system_prompt` is the same for all units; None lets queries write one for each.
    `seed_prompt` is what the result is compared with, the description where it is None.
    """

    name: str
    description: str
    rows: Sequence[Row]
    target: str
    scorer: Scorer
    question: Template = Template("{question}")
    held_out: Sequence[Row] = ()
    system_prompt: str | None = ""
    decoders: Decoders = Decoders()
    seed_prompt: str | None = None

    def __post_init__(self) -> None:
        if not self.description.strip():
            raise UsageError(f"task {self.name}: the description is empty; say in words what is to be done")
        if not self.rows:
            raise UsageError(f"task {self.name}: no questions")
        for what, rows in (("row", self.rows), ("held-out row", self.held_out)):
            for number, row in enumerate(rows):
                for column in (*self.question.names, self.target):
                    if column not in row:
                        near = did_you_mean(column, row)
                        raise UsageError(f"task {self.name}, {what} {number}: no {column!r}; {near}")

    @property
    def seed(self) -> str:
        """The prompt that the result is compared with."""
        return self.description if self.seed_prompt is None else self.seed_prompt
