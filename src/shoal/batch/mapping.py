"""`shoal.map`: a model over many items from Python, with what `shoal run` guarantees."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType, structs

from shoal.backends.loop import run
from shoal.batch.directory import RunDirectory, write_lines
from shoal.batch.records import Record, decode, encode
from shoal.batch.rows import Input, Row
from shoal.batch.runner import BatchRun, Progress, window_for
from shoal.batch.tables import items_of
from shoal.errors import UsageError
from shoal.prompting.answers import extract
from shoal.prompting.template import Template
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request, SamplingParams
from shoal.techniques.opening import bases, identities, names, open_model

Score = Callable[[Completion, Row], float]


def map(
    model: Model | str,
    items: Iterable[str | Row] | Any,
    *,
    template: str | None = None,
    params: SamplingParams | None = None,
    run_dir: Path | str | None = None,
    budget: Budget | None = None,
    score: Score | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Ask a model about every item; one Record each, in order, failures included.

    `items` are texts, or rows whose columns `template` names: a list, the path of a data file, or a table (pandas,
    polars, Arrow, Hugging Face). With `run_dir` every finished call is on disk before it counts: the same call goes on
    with a run that was stopped, and refuses one of other items or options (RunError). A `budget` that is spent leaves
    records with a BudgetExceeded error. `score` rates each answer from 0.0 to 1.0. `on_progress` is called after each
    row. Works in scripts and in Jupyter.
    """
    return run(
        amap(
            model,
            items,
            template=template,
            params=params,
            run_dir=run_dir,
            budget=budget,
            score=score,
            on_progress=on_progress,
        )
    )


async def amap(
    model: Model | str,
    items: Iterable[str | Row] | Any,
    *,
    template: str | None = None,
    params: SamplingParams | None = None,
    run_dir: Path | str | None = None,
    budget: Budget | None = None,
    score: Score | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """`map` for a program that is already asynchronous."""
    model = open_model(model) if isinstance(model, str) else model
    form = Template(template or "{prompt}")
    params = params or SamplingParams()

    async def program(row: Row) -> Completion:
        return await model(structs.replace(Request.of(form.fill(row)), params=params))

    def judge(completion: Completion, row: Row) -> tuple[str | None, float | UnsetType]:
        return completion.answer or extract(completion.text), score(completion, row) if score else UNSET

    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        place = Path(run_dir) if run_dir is not None else Path(scratch) / "run"
        rows = _kept(items, Path(scratch))
        base, technique = names(model)
        options = {"template": form.text, "params": params, "technique": technique, "model": identities(model)}
        with RunDirectory(place, options, rows) as directory:
            window = window_for(bases(model))
            batch = BatchRun(directory, rows, model=base, technique=technique, window=window, judge=judge)
            batch.on_progress = on_progress
            await batch.execute(program, budget)
            batch.write_output(place / "output.jsonl")
            return [decode(line) for line in batch.lines()]


def _kept(items: Any, scratch: Path) -> Input:
    """The items in a file, so that any number of them can be read more than once in bounded memory."""
    if isinstance(items, str):
        raise UsageError("items: expected a list of texts or rows, found one text; give a file as a Path")
    path = scratch / "items.jsonl"
    write_lines(path, (encode({"prompt": item} if isinstance(item, str) else item) for item in items_of(items)))
    return Input(path, label="items")
