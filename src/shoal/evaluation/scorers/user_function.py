"""A function of the user's own as the scorer."""

import inspect
from collections.abc import Callable
from typing import Any

from shoal.batch.rows import Row
from shoal.batch.scores import as_score
from shoal.errors import ShoalError, UsageError, did_you_mean
from shoal.evaluation.metrics import MEAN
from shoal.evaluation.scorers.rating import Scorer, name_of
from shoal.runtime.loading import fingerprint, load

_GIVEN = ("output", "answer", "target", "row")


def from_file(spec: str) -> Scorer:
    """The function of `FILE.py:NAME`, which is the user's own program and is run here.

    It takes what it names of output, answer, target and row, plain or async, and returns true, false or a number from
    0 to 1.
    """
    function = load(spec, f"scorer {spec}")
    wanted = _wanted(spec, function)

    async def rate(output: str, answer: str | None, target: object, row: Row) -> float:
        given = dict(zip(_GIVEN, (output, answer, target, row), strict=True))
        try:
            result = function(**{name: given[name] for name in wanted})
            return as_score(await result if inspect.isawaitable(result) else result)
        except ShoalError:
            raise
        except Exception as error:
            raise UsageError(f"scorer {spec}, {name_of(row)}: {type(error).__name__}: {error}") from error

    return Scorer(spec, rate, metric=MEAN, needs_target="target" in wanted, version=fingerprint(spec))


def _wanted(spec: str, function: Callable[..., Any]) -> list[str]:
    """What the function takes of what it can be given."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(_GIVEN)
    for parameter in parameters:
        if parameter.name not in _GIVEN and parameter.default is parameter.empty:
            raise UsageError(f"scorer {spec}: it takes {parameter.name!r}; {did_you_mean(parameter.name, _GIVEN)}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UsageError(f"scorer {spec}: it takes {parameter.name!r} by place alone; it is given by name")
    return [p.name for p in parameters if p.name in _GIVEN]
