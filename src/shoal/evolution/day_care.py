"""Day Care folders: queries, lists of prompts and tasks to breed prompts for, as files.

FOLDER/breeder.yaml             queries by name, or a folder breeder/ with NAME.jinja; without either, the paper's
FOLDER/mutation_prompts.json    optional, as thinking_styles.json is: the paper's lists are the default
FOLDER/TASK/task_description.json
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from shoal.batch.rows import Row, read_rows
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.scorers import SCORERS, Scorer, open_scorer
from shoal.evolution.decoding import Decoding, decoding
from shoal.evolution.files import read_json
from shoal.evolution.lists import mutation_prompts, thinking_styles
from shoal.evolution.queries import Queries, read_queries
from shoal.evolution.task import Decoders, Task
from shoal.prompting.answers import normalise
from shoal.prompting.template import Template

# Longest texts, in tokens: a prompt, a working and an answer. The paper's 50, 30 and 5 are for its sentences of few
# words; a folder may ask for working of any length.
LENGTHS = {"redescriber": 250, "inducer": 500, "evaluator": 16}
_KNOWN = {
    "task_description": str,
    "fitness_scorer": dict,
    "decoder_options": object,
    "fitness_decoder_options": object,
    "fixed_system_prompt": str,
    "question": str,
    "target": str,
    "seed_prompt": str,
    "held_out": str,
}
_BY_COMMAND = {"judge"}  # a scorer that asks a model: which one is not for a file to say
_WORDS = re.compile(r"[\w .-]+")
_KINDS: dict[object, str] = {str: "a text", dict: "an object"}


class DayCare(Struct, frozen=True):
    """A task as a folder describes it; `notes` say what was accepted though it has no meaning here."""

    folder: Path
    name: str
    description: str
    scorer: Scorer
    decoders: Decoders
    queries: Queries
    mutation_prompts: Sequence[str]
    thinking_styles: Sequence[str]
    system_prompt: str | None = None
    question: str | None = None
    target: str = ""
    seed_prompt: str | None = None
    held_out: Path | None = None
    notes: list[str] = field(default_factory=list)

    def task(self, suite: Path, held_out: Path | None = None, scorer: Scorer | None = None) -> Task:
        """The task with the rows of a suite, a data file of any kind we read, as its questions."""
        rows = list(read_rows(suite))
        if not rows:
            raise UsageError(f"{suite}: no rows")
        if self.target not in rows[0]:
            near = did_you_mean(self.target, rows[0])
            raise UsageError(f"{suite}: no column {self.target!r} with the right answers for {self.name}; {near}")
        apart, scorer = held_out or self.held_out, scorer or self.scorer
        further = list(read_rows(apart)) if apart else []
        for path, these in ((suite, rows), (apart, further)):
            _check(scorer, these, self.target, str(path))
        return Task(
            self.name,
            self.description,
            rows,
            self.target,
            scorer,
            Template(self.question or _question(rows[0], suite)),
            further,
            self.system_prompt,
            self.decoders,
            self.seed_prompt,
        )


def open_day_care(folder: Path, task: str, *, override: object = None) -> DayCare:
    """The task of a folder. `override` stands in for both decoder options, as the option of that name does.

    UsageError names file, key and what to do.
    """
    where = _task_folder(folder, task) / "task_description.json"
    given = _described(where)
    notes = [
        f"{where}: the key {name!r} is not read; {did_you_mean(name, _KNOWN)}" for name in given if name not in _KNOWN
    ]
    decoders = _decoders(given, where, override, notes)
    held_out = given.get("held_out")
    return DayCare(
        folder,
        task,
        _description(given, where),
        _scorer(given.get("fitness_scorer"), f"{where}, fitness_scorer"),
        decoders,
        read_queries(folder),
        mutation_prompts(_if_there(folder / "mutation_prompts.json")),
        thinking_styles(_if_there(folder / "thinking_styles.json")),
        given.get("fixed_system_prompt"),
        given.get("question"),
        given.get("target") or f"gold_{task}",
        given.get("seed_prompt"),
        within(folder, held_out, f"{where}, held_out") if held_out else None,
        notes,
    )


def _check(scorer: Scorer, rows: Sequence[Row], target: str, where: str) -> None:
    try:
        scorer.check_rows(rows, target)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    for column in scorer.columns:
        if rows and column not in rows[0]:
            raise UsageError(f"{where}: the scorer {scorer.name} reads {column!r}; {did_you_mean(column, rows[0])}")


def tasks(folder: Path) -> list[str]:
    """The tasks that a folder has."""
    return sorted(path.parent.name for path in folder.glob("*/task_description.json"))


def nothing_to_win(rows: Sequence[Row], target: str) -> str | None:
    """Why a suite cannot tell prompts apart; None where it may."""
    golds = {normalise(str(row.get(target))) for row in rows}
    if len(golds) > 1:
        return None
    always = str(rows[0].get(target))
    always = {"True": "Yes", "False": "No"}.get(always, always)
    return f"every {target} is {rows[0].get(target)!r}: always answering {always!r} scores 1.0, nothing to optimise"


def within(folder: Path, name: str, where: str) -> Path:
    """A path in a folder; UsageError where it leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{where}: {name!r} leads out of {folder}")
    return path


# The files


def _task_folder(folder: Path, task: str) -> Path:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if not task or task in (".", "..") or "/" in task or "\\" in task or "\0" in task:
        raise UsageError(f"--task {task!r}: the name of a folder in {folder} is needed")
    if not (folder / task).is_dir():
        raise UsageError(f"{folder}: no task {task!r}; {did_you_mean(task, tasks(folder))}")
    return within(folder, task, "--task")


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _described(path: Path) -> dict[str, Any]:
    given = read_json(path)
    if not isinstance(given, dict):
        raise UsageError(f"{path}: expected an object, found {type(given).__name__}")
    for name, kind in _KNOWN.items():
        if given.get(name) is not None and not isinstance(given[name], kind):
            raise UsageError(f"{path}, {name}: {_KINDS[kind]} is needed, not {str(given[name])[:60]!r}")
    return given


def _description(given: Mapping[str, Any], path: Path) -> str:
    text: str = given.get("task_description") or ""
    if not text.strip():
        raise UsageError(f"{path}: task_description is missing; say in words what is to be done")
    return text.strip()


def _decoders(given: Mapping[str, Any], path: Path, override: object, notes: list[str]) -> Decoders:
    """`decoder_options` are for writing prompts, `fitness_decoder_options` for answering: greedy without them."""
    if override is not None:
        writing = answering = decoding(override, "--decoder_options_override")
    else:
        writing = decoding(given.get("decoder_options"), f"{path}, decoder_options")
        answering = decoding(given.get("fitness_decoder_options", "argmax"), f"{path}, fitness_decoder_options")
    notes += dict.fromkeys((*writing.notes, *answering.notes))
    return Decoders(_role("redescriber", writing), _role("inducer", answering), _role("evaluator", answering))


def _role(name: str, options: Decoding) -> dict[str, Any]:
    return {"max_tokens": LENGTHS[name], **options.params}


def _question(row: Row, suite: Path) -> str:
    """How a row is put where the task does not say it."""
    if "question" not in row:
        raise UsageError(
            f'{suite}: no column "question"; say in task_description.json how a row is put: "question": "{{text}}"'
        )
    return "{text}\n\n{question}" if "text" in row else "{question}"


# Scorers


def _scorer(given: object, where: str) -> Scorer:
    """By the table of scorers; nothing that a file names is ever run."""
    if given is None:
        return open_scorer("exact")
    assert isinstance(given, dict)
    options = dict(given)
    kind = options.pop("type", None)
    kind = "f_beta" if kind == "BinaryfBeta" else kind  # Day Care's only one
    if not isinstance(kind, str) or kind not in SCORERS or kind in _BY_COMMAND:
        near = did_you_mean(str(kind), ("BinaryfBeta", *sorted(SCORERS.keys() - _BY_COMMAND)))
        raise UsageError(f"{where}: no type {kind!r}; {near}")
    for name, value in options.items():
        if not isinstance(value, int | float) and not (isinstance(value, str) and _WORDS.fullmatch(value)):
            raise UsageError(f"{where}, {name}: give it by --scorer, where {str(value)[:40]!r} can be written")
    spelt = ", ".join(f"{name}={value}" for name, value in options.items())
    try:
        return open_scorer(f"{kind}({spelt})" if spelt else kind)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
