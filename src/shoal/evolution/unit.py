"""What is bred: units of prompts, and what is known of them once they have been tried."""

from msgspec import Struct


class Working(Struct, frozen=True):
    """A question that was answered rightly, and all that the model wrote on the way, the answer included."""

    question: str
    text: str


class Unit(Struct, frozen=True):
    """A unit of evolution: the prompts that answer a question one after another, and the one that changes them.

    `contexts` are workings shown before the question (few-shot mode), `temperature` that of the Redescriber for this
    unit's offspring; `system_prompt` is "" where there is none. `id` is `GENERATION-SLOT`; `operator` made it from
    `parent`, in generation `born`; founders have neither.

    `fallback` is the operator that stood in for it where it had nothing to work with, `crossed` the unit that a task
    prompt was taken from, and `unwritten` how many replies had no prompt in them, so that the old one stayed.
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
    fallback: str | None = None
    crossed: str | None = None
    unwritten: int = 0


class Scored(Struct, frozen=True):
    """A unit with its fitness, from 0.0 to 1.0, over `questions` questions.

    `variants` has the fitness of each way to ask, where there are several; the best counts. `workings` are the right
    ones of the last evaluation that had any, a parent's until then. `evaluated` says in which generation it was, and
    `failed` how many questions a call failed on: they count neither as right nor as wrong.
    """

    unit: Unit
    fitness: float
    questions: int = 0
    workings: tuple[Working, ...] = ()
    variants: dict[str, float] = {}
    evaluated: int = 0
    failed: int = 0

    @property
    def variant(self) -> str | None:
        """The way to ask in which it is fittest; None where it has no answer in any."""
        return max(self.variants, key=lambda name: self.variants[name], default=None)
