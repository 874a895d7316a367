"""Several models as one: which of them an item of a batch is put to, in proportion to their weights."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from shoal.errors import UsageError
from shoal.runtime.model import Model
from shoal.techniques.opening import bases

Spreadable = Model | str | Sequence[Model | str] | Mapping[Model | str, float]


def weighted(model: Spreadable, opened: Callable[[Model | str], Model]) -> list[tuple[Model, float]]:
    """The models of a batch and their weights.

    A mapping holds the weights; those of a list are the tokens a minute (`tpm`) of the endpoints, or all equal where
    none has any. Raises UsageError for a weight that is none, and for a list in which only some have a `tpm`.
    """
    if isinstance(model, Mapping):
        for name, weight in model.items():
            if not (isinstance(weight, int | float) and 0 < weight < math.inf):
                raise UsageError(f"model {name!r}: its weight must be a number above 0, not {weight!r}")
        found = [(opened(name), float(weight)) for name, weight in model.items()]
    elif isinstance(model, list | tuple):
        found = _by_tpm([opened(name) for name in model])
    else:
        found = [(opened(model), 1.0)]  # type: ignore[arg-type]
    if not found:
        raise UsageError("model: at least one is needed")
    return found


def _by_tpm(models: list[Model]) -> list[tuple[Model, float]]:
    limits = [[base.limits.tpm for base in bases(model) if base.limits.tpm] for model in models]
    without = next((model for model, tpm in zip(models, limits, strict=True) if not tpm), None)
    if without is None:
        return [(model, float(min(tpm))) for model, tpm in zip(models, limits, strict=True)]
    if any(limits):
        raise UsageError(f"model {without!r} has no tpm in shoal.toml to spread by; give weights, {{model: weight}}")
    return [(model, 1.0) for model in models]


def turns(weights: Sequence[float]) -> Iterator[int]:
    """Whose turn it is, for ever: after any number of turns each had its share, to within one or two.

    The same weights always give the same turns, and more items do not change those of the first: a batch run again
    finds every draw in the cache.
    """
    whole = sum(weights)
    credit = [0.0] * len(weights)
    while True:
        for i, weight in enumerate(weights):
            credit[i] += weight / whole
        chosen = max(range(len(weights)), key=lambda i: credit[i])
        credit[chosen] -= 1.0
        yield chosen
