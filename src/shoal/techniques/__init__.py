"""The catalogue: every technique by its slug. Options, defaults and help come from the function itself."""

import inspect
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from shoal.errors import UsageError
from shoal.runtime.model import Technique
from shoal.techniques.beam_search import beam_search
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.cot_reflection import cot_reflection
from shoal.techniques.critique import critique
from shoal.techniques.learning_principles import learning_principles
from shoal.techniques.mixture_of_agents import mixture_of_agents
from shoal.techniques.monte_carlo_tree_search import monte_carlo_tree_search
from shoal.techniques.particle_filtering import particle_filtering
from shoal.techniques.plan_search import plan_search
from shoal.techniques.program_of_thoughts import program_of_thoughts
from shoal.techniques.prover_verifier_game import prover_verifier_game
from shoal.techniques.re_reading import re_reading
from shoal.techniques.round_trip import round_trip
from shoal.techniques.rstar import rstar
from shoal.techniques.self_consistency import self_consistency
from shoal.techniques.two_turn import two_turn
from shoal.techniques.z3_solver import z3_solver


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Option names of a function, which are what it takes by name alone, and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


class Cost(Struct, frozen=True):
    """Calls of a model, at the least and at the most, and how many of them one after another at the most."""

    fewest: int
    calls: int
    critical_path: int

    def __str__(self) -> str:
        return str(self.calls) if self.fewest == self.calls else f"{self.fewest} to {self.calls}"


class Entry(Struct, frozen=True):
    """A technique and what is known of it before it runs.

    `calls` and `critical_path` are formulas over its options, as Jinja expressions: calls of a model, and how many of
    them one after another. Where the replies decide how many are made, they are the most, and `fewest` says with how
    many calls it can end. `runs_code`: what a model wrote is run, in the sandbox. `allocates`: where a run shares a
    budget out among its rows, it takes as many samples as it is given.
    """

    function: Technique
    calls: str
    critical_path: str
    paper: str
    aliases: tuple[str, ...] = ()
    fewest: str | None = None
    runs_code: bool = False
    allocates: bool = False

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def options(self) -> dict[str, Any]:
        """Option names and their defaults."""
        return options_of(self.function)

    def cost(self, **options: Any) -> Cost:
        """What one answer costs with these options, and the defaults for the others.

        UsageError for options with which it cannot run at all, so that there is no cost.
        """
        from shoal.techniques._costs import NoCost, evaluate

        scope = self.options | options
        try:
            fewest, most, steps = (
                evaluate(text, scope) for text in (self.fewest or self.calls, self.calls, self.critical_path)
            )
        except NoCost:
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise UsageError(f"{self.function.__name__} cannot run with {given[:200]}") from None
        return Cost(fewest, most, steps)


TECHNIQUES: dict[str, Entry] = {
    "self_consistency": Entry(
        self_consistency,
        "max(n, len(proposers or [model]))",
        "1 if stop is none else 1 - (1 - max(n, len(proposers or [model]))) // ahead",
        "arXiv:2203.11171",
        ("majority_voting",),
        "max(n, len(proposers or [model])) if stop is none else 1",
        allocates=True,
    ),
    "best_of_n": Entry(
        best_of_n,
        "n + {'score': n, 'pairwise': n * (n - 1), 'tournament': 2 * (n - 1), 'select': votes}[judging]",
        "1 + ((n - 1).bit_length() if judging == 'tournament' else 1)",
        "arXiv:2009.01325",
        ("bon",),
        "n",
    ),
    "mixture_of_agents": Entry(
        mixture_of_agents,
        "(layers - 1) * (max(width, len(proposers or [model])) + critiques) + 1",
        "layers + (layers - 1) * critiques",
        "arXiv:2406.04692",
        ("moa",),
        "(layers - 1) * max(width, len(proposers or [model])) + 1",
    ),
    "prover_verifier_game": Entry(
        prover_verifier_game,
        "2 * rounds * (helpful + sneaky)",
        "2 * rounds",
        "arXiv:2407.13692",
        ("pvg",),
        "rounds * (helpful + sneaky)",
    ),
    "cot_reflection": Entry(cot_reflection, "2", "2", "arXiv:2201.11903", fewest="1"),
    "re_reading": Entry(re_reading, "1", "1", "arXiv:2309.06275", ("re2",)),
    "learning_principles": Entry(
        learning_principles, "2 * attempts * len(examples or []) + 2", "4", "arXiv:2402.05403", ("leap",), "1"
    ),
    "two_turn": Entry(two_turn, "2", "2", "arXiv:2205.11916"),
    "critique": Entry(critique, "2 * rounds + 1", "2 * rounds + 1", "arXiv:2303.17651"),
    "plan_search": Entry(
        plan_search,
        "1 + min(-(-n // (1 + rethink)), 1 + observations * (observations + 1) // 2) + n + n * (judge is not none) + n",
        "4 + (rethink and n > 1) + (1 if judge else 0)",
        "arXiv:2409.03733",
        ("plansearch",),
        "4",
    ),
    "beam_search": Entry(
        beam_search,
        "depth * beams * expand * (2 if reward == 'judge' else 1) + 1",
        "depth * (2 if reward == 'judge' else 1) + 1",
        "arXiv:2408.03314",
        fewest="beams * expand + (1 if reward == 'judge' else 0)",
    ),
    "particle_filtering": Entry(
        particle_filtering,
        "2 * particles * depth + (1 if final == 'best' else particles)",
        "2 * depth + 1",
        "arXiv:2502.01618",
        fewest="particles + 1",
    ),
    "monte_carlo_tree_search": Entry(
        monte_carlo_tree_search,
        "simulations * (depth + 1 if rollout or verifier or value == 'agreement' else 2) + 1",
        "-(-simulations // min(branching, parallel))"
        " * (depth + 1 if rollout or verifier or value == 'agreement' else 2) + 1",
        "arXiv:2305.14992",
        ("mcts",),
        "min(simulations, branching)",
    ),
    "rstar": Entry(
        rstar,
        "rollouts * (depth + 1) + 1",
        "(1 - (min(rollouts, parallel, 2 * branching + 2 if depth > 1 else 1) - rollouts) // parallel) * depth + 2",
        "arXiv:2408.06195",
        (),
        "min(rollouts, 2 * branching + 2 if depth > 1 else 1)",
    ),
    "program_of_thoughts": Entry(
        program_of_thoughts, "n * (repairs + 1) + 1", "repairs + 2", "arXiv:2211.12588", ("pot", "code"), "n", True
    ),
    "z3_solver": Entry(z3_solver, "repairs + 2", "repairs + 2", "arXiv:2305.09656", ("z3",), "2", True),
    "round_trip": Entry(round_trip, "7", "5", "arXiv:2402.08699", ("rto",), "1", True),
}


def find(name: str) -> Entry | None:
    """The technique of that slug or alias."""
    if name in TECHNIQUES:
        return TECHNIQUES[name]
    return next((entry for entry in TECHNIQUES.values() if name in entry.aliases), None)


def slug_of(technique: object) -> str | None:
    """The slug under which the catalogue has a function; None where it has not."""
    return next((slug for slug, entry in TECHNIQUES.items() if entry.function is technique), None)


def names() -> list[str]:
    """All slugs and aliases."""
    return [*TECHNIQUES, *(alias for entry in TECHNIQUES.values() for alias in entry.aliases)]
