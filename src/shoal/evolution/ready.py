"""What was bred, ready to use: as a system message, and as a template that asks exactly as fitness was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from shoal.batch.directory import atomic_writer
from shoal.evolution.queries import Queries
from shoal.evolution.task import Task
from shoal.evolution.unit import Scored
from shoal.prompting.template import Template


class Ready(Struct, frozen=True):
    """The files of the best prompt, in the run's folder."""

    json: Path
    system: Path
    template: Path


def write_ready(folder: Path, best: Scored, task: Task, queries: Queries) -> Ready:
    """Write `best_prompt.json`, `best_prompt.txt` and `best_prompt.jinja`."""
    ready = Ready(folder / "best_prompt.json", folder / "best_prompt.txt", folder / "best_prompt.jinja")
    variant = best.variant or ""
    facts = {
        "task": task.name,
        "system_prompt": best.unit.system_prompt,
        "task_prompts": best.unit.task_prompts,
        "contexts": best.unit.contexts,
        "variant": variant,
        "fitness": best.fitness,
        "questions": best.questions,
        "question": task.question.text,
        "as_system_message": system_message(best),
    }
    _write(ready.json, msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")
    _write(ready.system, system_message(best).encode() + b"\n")
    _write(ready.template, template(best, task, queries, variant).encode())
    return ready


def system_message(best: Scored) -> str:
    """The prompts of the unit as one message, which comes before a question rather than after it."""
    unit = best.unit
    shown = [f"{working.question}\n{working.text}" for working in unit.contexts]
    return "\n\n".join(part.strip() for part in (unit.system_prompt, *shown, *unit.task_prompts) if part.strip())


def template(best: Scored, task: Task, queries: Queries, variant: str) -> str:
    """The fitness query with the unit's prompts in it; its inputs are the columns that a question is made of."""
    unit, columns = best.unit, sorted(task.question.names)
    given: dict[str, Any] = {
        "task_prompts": unit.task_prompts,
        "system_prompt": unit.system_prompt,
        "contexts": [structs.asdict(working) for working in unit.contexts],
        "variant": variant,
        "inducer": task.decoders.inducer,
        "evaluator": task.decoders.evaluator,
    }
    given["row"] = {name: _Name(name) for name in columns}
    given["question"] = _filled(task.question)
    said = ",\n   ".join(f"{name}={literal(value)}" for name, value in given.items())
    return f"{{%- with {said} -%}}\n{queries.prompts['fitness'].text}\n{{%- endwith -%}}\n"


class _Name(str):
    """An expression in a template, which stands there as it is."""

    __slots__ = ()


def literal(value: Any) -> str:
    """Plain data as a template writes it."""
    if isinstance(value, _Name):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    return "none" if value is None else msgspec.json.encode(value).decode()


def _filled(question: Template) -> _Name:
    """A question as an expression of its columns."""
    pieces = (
        _Name(f'({piece.name} if {piece.name} is not none else "")') if piece.name else piece.text
        for piece in question.pieces()
    )
    return _Name(" ~ ".join(map(literal, pieces)) or '""')


def _write(path: Path, data: bytes) -> None:
    with atomic_writer(path) as out:
        out.write(data)
