"""What a run of evolution asks, before it is begun: calls, and how many of them follow one another."""

from msgspec import Struct

from shoal.errors import UsageError
from shoal.evolution.mutators import weights_of
from shoal.evolution.settings import Settings
from shoal.evolution.task import Task

# They write a mutation prompt first, and then the task prompts with it.
_HYPER = ("zero_order_hypermutation", "first_order_hypermutation")


class Calls(Struct, frozen=True):
    """The calls of a whole run, by what they are for.

    `founders` write the first task prompts. `fitness` answers questions, in all generations together: exactly so many
    where answers are sampled, at most where they are not, for an equal question is then asked once in a run.
    `mutations` are expected, `most_mutations` the most there can be. `held_out` answers the held-out rows twice.
    """

    founders: int
    fitness: int
    mutations: float
    most_mutations: int
    held_out: int

    @property
    def expected(self) -> float:
        return self.founders + self.fitness + self.mutations + self.held_out

    @property
    def most(self) -> int:
        return self.founders + self.fitness + self.most_mutations + self.held_out


class CallPlan(Calls, frozen=True):
    """The calls of a whole run; `critical_path` of them follow one another at the most, the held-out rows included."""

    critical_path: int


def plan_calls(task: Task, settings: Settings, *, calls_per_answer: int | None = None) -> CallPlan:
    """The calls of a run. `calls_per_answer` follow one another; None: as the paper's query has it, one a task prompt.

    A query of one's own, or a technique as the model, may make more.
    """
    steps = settings.prompts_per_unit if calls_per_answer is None else calls_per_answer
    born = births(settings)
    mean, most = per_mutation(settings)
    held_out = len(task.held_out)
    seed_steps = 1 if calls_per_answer is None else steps
    return CallPlan(
        founders=settings.population_size * settings.prompts_per_unit,
        fitness=rollouts(task, settings) * steps,
        mutations=settings.generations * born * mean,
        most_mutations=settings.generations * born * most,
        held_out=held_out * (steps + seed_steps),
        critical_path=critical_path(settings, steps) + (steps if held_out else 0),
    )


def births(settings: Settings) -> int:
    """Mutations in a generation: of each pair's winner, or of both where it is not waited for who wins."""
    pairs = settings.population_size // 2
    return 2 * pairs if settings.speculate else pairs


def evaluations(settings: Settings) -> int:
    """Units scored in a run: in each generation all of them, or those that are new where each is scored once."""
    size = settings.population_size
    return size + settings.generations * (size if settings.batch is not None else size // 2)


def rollouts(task: Task, settings: Settings) -> int:
    """Questions put to units in a run, at most: those that a call fails on, and equal ones, count too."""
    return evaluations(settings) * settings.questions(len(task.rows))


def affordable(task: Task, settings: Settings, most: int) -> int:
    """The generations that `most` rollouts are enough for; UsageError where they are not for the founders."""
    batch, size = settings.questions(len(task.rows)), settings.population_size
    if most < size * batch:
        raise UsageError(f"rollouts={most}: {size} founders are asked {batch} questions each, {size * batch} in all")
    return (most - size * batch) // (batch * (size if settings.batch is not None else size // 2))


def per_mutation(settings: Settings) -> tuple[float, int]:
    """Calls of one mutation, expected and at most."""
    weights = weights_of(settings)
    calls = {name: settings.prompts_per_unit + (name in _HYPER) for name in weights}
    mean = sum(weight * calls[name] for name, weight in weights.items()) / sum(weights.values())
    return mean, max(calls[name] for name, weight in weights.items() if weight)


def mutation_steps(settings: Settings) -> int:
    """Calls of one mutation that follow one another, at most."""
    return 2 if any(weights_of(settings).get(name) for name in _HYPER) else 1


def critical_path(settings: Settings, steps: int) -> int:
    """Calls of a run that follow one another, at most, where an answer takes `steps`; without held-out rows."""
    mutation = mutation_steps(settings)
    generation = max(mutation, steps) if settings.speculate else mutation + steps
    return 1 + steps + settings.generations * generation
