"""How answers are rated: scorers by name, each from 0.0 to 1.0 a row, and the metric over all rows."""

import inspect
from collections.abc import Callable

from msgspec import UNSET, UnsetType, structs

from shoal.backends.config import load_config
from shoal.batch.rows import Row
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.metrics import MEAN, Metric
from shoal.evaluation.scorers.answers import boolean, choice, exact, f_beta, number
from shoal.evaluation.scorers.code_tests import code
from shoal.evaluation.scorers.json_equality import json
from shoal.evaluation.scorers.labels import label
from shoal.evaluation.scorers.maths import maths
from shoal.evaluation.scorers.model_judge import judge
from shoal.evaluation.scorers.puzzles import puzzle
from shoal.evaluation.scorers.rating import Rate as Rate
from shoal.evaluation.scorers.rating import Scorer as Scorer
from shoal.evaluation.scorers.texts import contains, regex
from shoal.evaluation.scorers.user_function import from_file
from shoal.prompting.answers import extract
from shoal.runtime.model import Model
from shoal.runtime.types import Completion
from shoal.techniques import options_of
from shoal.techniques.opening import open_cache, opener
from shoal.techniques.spec import OpenBase, name_and_options, read_options

# Options, defaults and help come from the function itself.
SCORERS: dict[str, Callable[..., Scorer]] = {
    "exact": exact,
    "number": number,
    "choice": choice,
    "label": label,
    "boolean": boolean,
    "f_beta": f_beta,
    "contains": contains,
    "regex": regex,
    "json": json,
    "maths": maths,
    "code": code,
    "puzzle": puzzle,
    "judge": judge,
}


def open_scorer(spec: str, open_base: OpenBase | None = None) -> Scorer:
    """The scorer that `spec` names: `number`, `regex(pattern=\\d+)`, `judge(model=openai/gpt-x)`, `file.py:function`.

    `open_base` opens the base models that a judge asks (see `opening.opener`); default as `open_model` opens them. They
    are the caller's to close (`Scorer.aclose`). UsageError says what is unknown, and what is near.
    """
    name, given = name_and_options(spec)
    if not name and ".py:" in spec:
        return from_file(spec.strip())
    if name not in SCORERS:
        raise UsageError(f"unknown scorer {spec!r}; {did_you_mean(name or spec, SCORERS)}")
    function = SCORERS[name]
    options = read_options(name, function, given, open_base or _opener())
    for option, default in options_of(function).items():
        if default is inspect.Parameter.empty and option not in options:
            raise UsageError(f"the scorer {name} needs {option}=; `shoal scorers {name}` tells of it")
    return structs.replace(function(**options), name=spec.strip())


def metric_of(spec: str) -> Metric:
    """The metric of the scorer that `spec` names, which may come from anywhere: nothing is imported or asked for it."""
    name, _ = name_and_options(spec)
    if name not in SCORERS or SCORERS[name] is judge:
        return MEAN
    return open_scorer(spec).metric


def _opener() -> OpenBase:
    """Opens base models as `open_model` does, from the first one on: most scorers ask none."""
    opened: list[OpenBase] = []

    def open_base(base: str) -> Model:
        if not opened:
            opened.append(opener(load_config(None), cache=open_cache(True)))
        return opened[0](base)

    return open_base


async def unscored(completion: Completion, _: Row) -> tuple[str | None, UnsetType]:
    """The judge of rows that there is no target for."""
    return completion.answer or extract(completion.text), UNSET
