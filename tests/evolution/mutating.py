"""Single mutations on scripted models, for tests."""

from collections.abc import Sequence
from random import Random
from typing import Any

from tests.evolution.breeding import by_letters, task
from tests.scripting import run, scripted

from shoal.backends.scripted import Script, ScriptedBackend
from shoal.evolution.mutators import offspring
from shoal.evolution.queries import Queries
from shoal.evolution.settings import Settings
from shoal.evolution.surroundings import Breeding, Surroundings
from shoal.evolution.unit import Scored, Unit, Working
from shoal.runtime import registry

QUERIES = Queries()
STYLES = ["Think.", "Be brief."]
WORKINGS = tuple(Working(f"What is {i} + {i}?", f"It is {i} doubled.\n{2 * i}") for i in range(1, 5))


class Known:
    """A snapshot that is given, and whether anybody waited for it."""

    def __init__(self, population: Sequence[Scored] = (), elites: Sequence[Unit] = ()) -> None:
        self._population = population
        self._elites = elites
        self.asked = False

    async def population(self) -> Sequence[Scored]:
        self.asked = True
        return self._population

    async def elites(self) -> Sequence[Unit]:
        self.asked = True
        return self._elites


def unit(*task_prompts: str, id: str = "0-0", mutation_prompt: str = "Change it:", **others: Any) -> Unit:
    return Unit(id, task_prompts, mutation_prompt, **{"temperature": 1.5, **others})


def scored(*task_prompts: str, fitness: float = 0.5, workings: Sequence[Working] = (), **others: Any) -> Scored:
    return Scored(unit(*task_prompts, **others), fitness, 10, tuple(workings))


def population(*prompts: str) -> list[Scored]:
    """Units of one prompt each, the later the fitter."""
    return [scored(prompt, id=f"0-{i}", fitness=i / len(prompts)) for i, prompt in enumerate(prompts)]


def child_of(
    name: str,
    parent: Scored,
    script: Script = lambda _: "new",
    *,
    known: Known | None = None,
    seed: int = 0,
    embed: Any = by_letters,
    **settings: Any,
) -> tuple[Unit, ScriptedBackend]:
    """The parent's offspring by an operator, without crossover unless asked for; and what the model was asked."""
    model, backend = scripted(script, waves=True)
    given = Settings(**{"crossover": 0.0, **settings})
    breeding = Breeding(task(), given, QUERIES, ["Change it:"], STYLES, embed)
    around = Surroundings(breeding, known or Known(), Random(seed), (1, 0), {"temperature": 1.5, "max_tokens": 50})
    with registry.using(model):
        return run(offspring(name, parent, around)), backend


def texts(backend: ScriptedBackend) -> list[str]:
    """What the model was asked, each as it reached it, in the order of the draws."""
    return [request.text for request in sorted(backend.requests, key=lambda request: request.sample)]
