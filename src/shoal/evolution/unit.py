"""What is bred: units of prompts, and what is known of them once they have been tried."""

from msgspec import Struct


class Working(Struct, frozen=True):
    """A question that was answered rightly, with all that was written on the way."""

    question: str
    text: str


class Unit(Struct, frozen=True):
    """A unit of evolution: the prompts that answer a question one after another, and the one that changes them.

    `contexts` are workings shown before the question (few-shot mode), `temperature` that of the Redescriber for this
    unit's offspring; `system_prompt` is "" where there is none. `id` is `GENERATION-SLOT`; `operator` made it from
    `parent`, in generation `born`; founders have neither.
    """

    id: str
    task_prompts: tuple[str, ...]
    mutation_prompt: str
    system_prompt: str = ""
    contexts: tuple[Working, ...] = ()
    temperature: float | None = None
    operator: str = "founder"
    parent: str | None = None
    born: int = 0


class Scored(Struct, frozen=True):
    """A unit with its fitness, from 0.0 to 1.0, over `questions` questions.

    `variants` has the fitness of each way to ask, where there are several; the best counts. `workings` are the right
    ones of the last evaluation that had any, a parent's until then. `evaluated` says in which generation it was.
    """

    unit: Unit
    fitness: float
    questions: int = 0
    workings: tuple[Working, ...] = ()
    variants: dict[str, float] = {}
    evaluated: int = 0
