"""What workers elsewhere are told of a job: checked where it is asked for, small, and without a key in it."""

import pickle
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import msgspec
from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.batch.mapping import Rater, Score, rater_of
from shoal.batch.programs import RowFunction
from shoal.errors import UsageError, refuse_unknown
from shoal.prompting.template import Template
from shoal.runtime.budget import Budget
from shoal.runtime.types import SamplingParams, Usage
from shoal.techniques.opening import from_bases


class JobOptions(TypedDict, total=False):
    """What is asked, and how, wherever the workers are.

    model          of a program: the spec of what its built-ins ask
    template       of a model: how a row's columns become the prompt; default "{prompt}"
    params         of a model: how to sample
    id_column      tells rows apart that are otherwise equal; without it equal rows are one question
    run_dir        a directory where every finished call is kept, so that nothing is asked again after a crash or by
                   the same job later: of the file system all workers share, or one on each node
    config         the path of a shoal.toml that every worker can read; default what it finds by itself
    cache          False, or the path of a draw cache, instead of the worker's user's own
    max_in_flight  most requests at once, of each worker
    budget         what may be spent by all workers together; each gets an equal share
    score          rates each answer from 0.0 to 1.0: as for `shoal.map`
    target         of a scorer: the column with the expected answer
    """

    model: str | None
    template: str | None
    params: SamplingParams | None
    id_column: str | None
    run_dir: Path | str | None
    config: Path | str | None
    cache: Path | str | bool
    max_in_flight: int | None
    budget: Budget | None
    score: Score | Rater | None
    target: str | None


class Share(NamedTuple):
    """What each of so many workers may spend."""

    calls: int | None
    tokens: int | None
    seconds: float | None
    dollars: float | None
    workers: int

    def budget(self, others: int, ended: Usage, dollars: float | None) -> Budget:
        """What a worker may spend beside so many others, when those that ended have spent that before.

        Where nobody knows the `dollars` of it, nothing of a budget of dollars is left.
        """
        free = self.workers - min(others, self.workers - 1)  # one that is just ending may still be counted
        calls = None if self.calls is None else _left(self.calls, free, ended.calls)
        tokens = None if self.tokens is None else _left(self.tokens, free, ended.total_tokens)
        spent = float("inf") if dollars is None else dollars
        return Budget(calls, tokens, self.seconds, None if self.dollars is None else _left(self.dollars, free, spent))


_Number = TypeVar("_Number", int, float)


def _left(share: _Number, free: int, spent: _Number) -> _Number:
    return max(min(share, share * free - spent), type(share)(0))


class Job(Struct, frozen=True):
    """One job, as it travels. `model` is a spec; `pickled` holds the program (or None) and the score function.

    `columns` are those that are read of a row, all where None, and `needed` those that must be there; `budget` is one
    worker's share. `asked` is the same in all workers of one call, and nowhere else.
    """

    model: str
    pickled: bytes
    name: str | None = None
    version: str | None = None
    template: str = "{prompt}"
    params: SamplingParams = SamplingParams()
    columns: tuple[str, ...] | None = None
    needed: tuple[str, ...] = ()
    scored: bool = False
    target: str | None = None
    run_dir: str | None = None
    config: str | None = None
    cache: str | bool = True
    max_in_flight: int | None = None
    budget: Share | None = None
    asked: str = ""

    def __repr__(self) -> str:
        return f"Job({self.name or self.template!r}, {self.model!r})"

    def unpickled(self) -> tuple[Any, Any]:
        """The program, if any, and the score function; UsageError where a worker cannot import them."""
        try:
            program, score = pickle.loads(self.pickled)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{self.name or 'score='} cannot be loaded on a worker ({error}); its module must be importable there: "
                "install it or send it along (Ray: runtime_env), or define the function in the script itself"
            ) from error
        return program, score


def job_of(what: str, subject: Any, options: JobOptions, dumps: Callable[[Any], bytes], workers: int) -> Job:
    """The job that `what` was asked for, for so many workers; UsageError for whatever is wrong before anything runs."""
    refuse_unknown(what, options, JobOptions)
    is_program = hasattr(subject, "__shoal_program__") or hasattr(subject, "render")
    _check_subject(what, is_program, subject, options)
    model = str(options.get("model") if is_program else subject)
    from_bases(model, _stand_in)
    function = RowFunction(subject) if is_program else None
    template = options.get("template") or "{prompt}"
    score, target = options.get("score"), options.get("target")
    rater_of(score, target)  # refuses what is none
    asked = list(dict.fromkeys(piece.name for piece in Template(template).pieces() if piece.name))
    reads = function.reads() if function else asked
    more = [name for name in (options.get("id_column"), target) if name]
    needs = function.needs() if function else asked
    return Job(
        model,
        _pickled(what, (subject if is_program else None, score), dumps),
        name=function.name if function else None,
        version=function.version if function else None,
        template=template,
        params=options.get("params") or SamplingParams(),
        columns=None if score is not None or reads is None else tuple(dict.fromkeys([*reads, *more])),
        needed=tuple(dict.fromkeys([*needs, *more])),
        scored=score is not None,
        target=target,
        run_dir=_place(what, "run_dir", options.get("run_dir")),
        config=_place(what, "config", options.get("config")),
        cache=cache if isinstance(cache := options.get("cache", True), bool) else str(Path(cache).absolute()),
        max_in_flight=options.get("max_in_flight"),
        budget=_share(what, options.get("budget"), workers),
        asked=secrets.token_hex(8),
    )


def _check_subject(what: str, is_program: bool, subject: Any, options: JobOptions) -> None:
    if not is_program:
        if not isinstance(subject, str):
            raise UsageError(
                f"{what}: expected the spec of a model, such as 'self_consistency(n=8)@openai/gpt-x', or a @program "
                f"function, found {type(subject).__name__}; an open model cannot travel to workers, its spec can"
            )
        if options.get("model") is not None:
            raise UsageError(f"{what}: model= is for programs; give the model alone, or decorate with @program")
        return
    if not isinstance(options.get("model"), str):
        raise UsageError(f"{what}: model= is needed, the spec of what the program asks; an open model cannot travel")
    for name in ("template", "params"):
        if options.get(name) is not None:
            raise UsageError(f"{what}: {name}= is for models; a program says itself what it asks")


def _stand_in(spec: str) -> BaseModel:
    """In place of a base model where only the techniques are checked: its key may be known to the workers alone."""
    return BaseModel(ScriptedBackend(lambda _: "", name=spec))


def _pickled(what: str, value: Any, dumps: Callable[[Any], bytes]) -> bytes:
    try:
        return dumps(value)
    except Exception as error:  # whatever a function of the user's may hold
        raise UsageError(f"{what}: the program or score= cannot be sent to workers: {error}") from error


def _place(what: str, name: str, path: Path | str | None) -> str | None:
    """A path that means the same in every worker's own working directory."""
    if path is None:
        return None
    if "://" in str(path):
        raise UsageError(f"{what}: {name}={str(path)!r} must be a path of a file system that workers see, no address")
    return str(Path(path).absolute())


def _share(what: str, budget: Budget | None, workers: int) -> Share | None:
    if budget is None:
        return None
    for name, limit in (("calls", budget.calls), ("tokens", budget.tokens)):
        if limit is not None and limit < workers:
            raise UsageError(f"{what}: a budget of {limit} {name} cannot be shared among {workers} workers")
    calls, tokens = (None if limit is None else limit // workers for limit in (budget.calls, budget.tokens))
    return Share(calls, tokens, budget.seconds, None if budget.dollars is None else budget.dollars / workers, workers)


def identity_of(job: Job, models: list[str], technique: str | None) -> dict[str, Any]:
    """What makes a job this job: a run directory made with other options is refused."""
    asked: dict[str, Any] = {"model": models, "technique": technique, "target": job.target}
    if job.name is not None:
        return asked | {"program": job.name, "source": job.version}
    return asked | {"template": job.template, "params": msgspec.to_builtins(job.params)}
