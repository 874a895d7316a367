"""The catalogue: every technique by its slug. Options, defaults and help come from the function itself."""

import inspect
from typing import Any

from msgspec import Struct

from shoal.runtime.model import Technique
from shoal.techniques.beam_search import beam_search
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.mixture_of_agents import mixture_of_agents
from shoal.techniques.particle_filtering import particle_filtering
from shoal.techniques.self_consistency import self_consistency


class Entry(Struct, frozen=True):
    """A technique and what is known of it before it runs.

    `calls` and `critical_path` are formulas over its options: calls of a model, and how many of them one after another.
    Where the replies decide how many are made, they are the most, and `fewest` says with how many calls it can end.
    """

    function: Technique
    calls: str
    critical_path: str
    paper: str
    aliases: tuple[str, ...] = ()
    fewest: str | None = None

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def options(self) -> dict[str, Any]:
        """Option names and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


TECHNIQUES: dict[str, Entry] = {
    "self_consistency": Entry(
        self_consistency,
        "max(n, len(proposers or [model]))",
        "1 if stop is None else 1 - (1 - max(n, len(proposers or [model]))) // ahead",
        "arXiv:2203.11171",
        ("majority_voting",),
        "max(n, len(proposers or [model])) if stop is None else 1",
    ),
    "best_of_n": Entry(best_of_n, "2 * n", "2", "arXiv:2009.01325", ("bon",)),
    "mixture_of_agents": Entry(
        mixture_of_agents,
        "(layers - 1) * max(width, len(proposers or [model])) + 1",
        "layers",
        "arXiv:2406.04692",
        ("moa",),
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
}


def find(name: str) -> Entry | None:
    """The technique of that slug or alias."""
    if name in TECHNIQUES:
        return TECHNIQUES[name]
    return next((entry for entry in TECHNIQUES.values() if name in entry.aliases), None)


def names() -> list[str]:
    """All slugs and aliases."""
    return [*TECHNIQUES, *(alias for entry in TECHNIQUES.values() for alias in entry.aliases)]
