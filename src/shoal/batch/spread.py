"""The models of a batch: opened once, closed at its end, and which of several a prompt is put to, by their weights."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from shoal.backends import BaseModel
from shoal.batch.settings import Settings
from shoal.errors import UsageError
from shoal.runtime.backend import refuse_unsupported
from shoal.runtime.model import Model
from shoal.runtime.types import Request
from shoal.techniques.opening import bases, open_model

_LEAST_WINDOW, _WIDEST_WINDOW = 64, 8192

Spreadable = Model | str | Sequence[Model | str] | Mapping[Model | str, float]


class Models:
    """The models of one batch: those named by a spec are opened once, and closed at its end."""

    def __init__(self, queries_per_batch: int | None) -> None:
        self._queries_per_batch = queries_per_batch
        self._opened: dict[str, Model] = {}
        self._used: dict[int, Model] = {}

    def open(self, model: Model | str) -> Model:
        if isinstance(model, str):
            if model not in self._opened:
                self._opened[model] = open_model(model, queries_per_batch=self._queries_per_batch)
            model = self._opened[model]
        elif not callable(model):
            raise UsageError(f"model: expected a spec or a Model, found {type(model).__name__}")
        elif self._queries_per_batch is not None:
            raise UsageError(f"queries_per_batch is for models given by their spec; open {model!r} with it instead")
        self._used[id(model)] = model
        return model

    def choose(self, model: Spreadable | None, settings: Sequence[Settings], example: Request) -> Iterator[Model]:
        """The models in turn, for the settings that name none. Checks that each can do what it will be asked."""
        named = {each.model for each in settings}
        if model is not None and named != {None}:
            raise UsageError("give model, or 'model' in model_args, not both")
        shares = weighted("local" if model is None else model, self.open) if None in named else []
        for each in settings:
            for candidate in [self.open(each.model)] if each.model else [model for model, _ in shares]:
                if isinstance(candidate, BaseModel):
                    refuse_unsupported(each.of(example), candidate.backend.capabilities, candidate.name)
        return (shares[turn][0] for turn in turns([weight for _, weight in shares]))

    def window(self) -> int:
        """Prompts under way at once: enough to fill every model's requests."""
        wide = 0
        for base in bases(list(self._used.values())):
            wide += 2 * base.scheduler.max_in_flight * base.backend.capabilities.max_batch
        return min(max(wide, _LEAST_WINDOW), _WIDEST_WINDOW)

    async def aclose(self) -> None:
        for base in bases(list(self._opened.values())):
            await base.aclose()


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
