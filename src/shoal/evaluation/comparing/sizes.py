"""The one option that says how much a technique spends, and a technique at another setting of it."""

from functools import partial
from typing import Any

from msgspec import Struct, structs

from shoal.runtime.model import Applied, Model, Technique, apply
from shoal.runtime.types import Completion, Request
from shoal.techniques import TECHNIQUES, slug_of

# By slug. A technique that is not here has one size only.
SIZES = {
    "self_consistency": "n",
    "best_of_n": "n",
    "mixture_of_agents": "width",
    "prover_verifier_game": "rounds",
    "learning_principles": "attempts",
    "critique": "rounds",
    "plan_search": "n",
    "beam_search": "beams",
    "particle_filtering": "particles",
    "monte_carlo_tree_search": "simulations",
    "rstar": "rollouts",
    "program_of_thoughts": "n",
}
# Those whose draws are alike, so that any n of a pool are as good as the first n.
_EXCHANGEABLE = frozenset({"self_consistency", "best_of_n"})


class Size(Struct, frozen=True):
    """A technique's size: the option's name and its value. `exchangeable`: any draws of the pool do as well."""

    option: str
    value: int
    exchangeable: bool


def size_of(model: object) -> Size | None:
    """The size of the outermost technique that has one."""
    while isinstance(model, Applied):
        slug = slug_of(model.technique)
        if slug in SIZES:
            option = SIZES[slug]
            value = model.options.get(option, TECHNIQUES[slug].options[option])
            return Size(option, value, slug in _EXCHANGEABLE)
        model = model.model
    return None


def resized(model: Model, size: int, start: int = 0) -> Model:
    """The same techniques, the outermost that has a size at another; its draws are those from number `start` on."""
    if not isinstance(model, Applied):
        return model
    slug = slug_of(model.technique)
    if slug not in SIZES:
        return Applied(model.technique, resized(model.model, size, start), model.options)
    technique: Technique = partial(_from, model.technique, start) if start else model.technique
    return apply(technique, model.model, **model.options | {SIZES[slug]: size})


async def _from(technique: Technique, start: int, model: Model, request: Request, **options: Any) -> Completion:
    return await technique(_Shifted(model, request, start), request, **options)


class _Shifted:
    """A model whose draws of one question begin further on; what else it is asked goes through."""

    def __init__(self, model: Model, request: Request, start: int) -> None:
        self._model = model
        self._question = request.question()
        self._depth = len(request.sample)
        self._start = start

    async def __call__(self, request: Request, /) -> Completion:
        path, depth = request.sample, self._depth
        if len(path) > depth and request.question() == self._question:
            path = (*path[:depth], path[depth] + self._start, *path[depth + 1 :])
            request = structs.replace(request, sample=path)
        return await self._model(request)
