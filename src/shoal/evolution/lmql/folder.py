"""A Day Care folder whose queries are LMQL, converted: query by query, or with the reason why not."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from shoal.batch.directory import atomic_writer
from shoal.errors import ShoalError, UsageError
from shoal.evolution.files import read_text
from shoal.evolution.genome import PARTS
from shoal.evolution.lmql.expressions import constant
from shoal.evolution.lmql.statements import NotConverted
from shoal.evolution.lmql.template import Converted, Names, converted
from shoal.evolution.queries import outputs

_PROMPTS = {part.upper(): part for part in PARTS}
_NOTHING = '""'
_WORKINGS = 'workings|map(attribute="text")|list'
_BRED = {"mutation_prompt": "mutation_prompt", "thinking_style": _NOTHING, "task_description": _NOTHING}
_ANEW = {
    "mutation_prompt": "mutation_prompt",
    "thinking_style": "thinking_style",
    "task_description": "description",
    "task_prompt": _NOTHING,
}
_LISTED = {"mutation_prompt": "mutation_prompt", "task_prompts": "task_prompts"}
_HYPER = {"MUTATION_PROMPT": "mutation_prompt", "MUTATED_TASK_PROMPT": "mutation_prompt"}
_FITNESS = Names(
    {
        "system_prompt": "system_prompt",
        "task_prompt": "task_prompts[0]",
        "reasoning_prompt": '(task_prompts[1] if task_prompts|length > 1 else "")',
        "CoT": '(variant != "noCoT")',
    },
    {"REQUIREMENT": "answer", "REASONING": "working"},
    "inducer",
    "evaluator",
    "row.{}",
)


def _writing(inputs: Mapping[str, str], outputs: Mapping[str, str] = _PROMPTS) -> Names:
    return Names(inputs, outputs, "redescriber", "redescriber")


# The folder's query -> ours that it becomes, each with what the names in it are.
_QUERIES: dict[str, dict[str, Names]] = {
    "fitness_test_template": {"fitness": _FITNESS},
    "mutation_direct": {
        "initial": _writing(_ANEW),
        "zero_order_direct": _writing(_ANEW),
        "first_order_direct": _writing({**_BRED, "task_prompt": "task_prompt"}),
    },
    "mutation_eda_based": {
        ours: _writing({**_LISTED, "eda_method": constant(method)})
        for ours, method in (
            ("estimation_of_distribution", "random"),
            ("rank_and_index", "ranked"),
            ("lineage", "lineage"),
        )
    },
    "mutation_lamarckian": {
        "lamarckian": _writing(
            {"mutation_prompt": "mutation_prompt", "correct_reasonings": _WORKINGS, "task_prompt": "task_prompt"}
        )
    },
    "hypermutation_zero_order_direct": {
        "zero_order_hypermutation": _writing(
            {"thinking_style": "thinking_style", "task_description": "description"}, _HYPER
        )
    },
    "hypermutation_first_order_direct": {
        "first_order_hypermutation": _writing({"mutation_prompt": "mutation_prompt"}, _HYPER)
    },
}


class Outcome(Struct, frozen=True):
    """What became of one query of a folder: the names of ours that it is now, or why it is none; and notes."""

    query: str
    became: tuple[str, ...] = ()
    refused: str | None = None
    notes: tuple[str, ...] = ()
    harmless: bool = False  # nothing of the folder's is lost


def convert(old: Path, new: Path) -> list[Outcome]:
    """Write the folder `new` with the queries of `old/breeder.lmql` as templates, and its other files as they are.

    UsageError where there is nothing to convert, or `new` is there already.
    """
    source = _hjson(old / "breeder.lmql")
    if new.exists():
        raise UsageError(f"{new} is there already; name a folder that is not")
    templates: dict[str, str] = {}
    outcomes = [_outcome(name, source, templates) for name in source if not name.endswith("_args")]
    outcomes += [
        Outcome(name, refused="the folder has none; ours takes its place", harmless=True)
        for name in _QUERIES
        if name not in source
    ]
    new.mkdir(parents=True)
    with atomic_writer(new / "breeder.yaml") as out:
        out.write(_document(templates, outcomes).encode())
    _copied(old, new)
    return outcomes


def _outcome(name: str, source: Mapping[str, Any], templates: dict[str, str]) -> Outcome:
    query, arguments = source[name], source.get(f"{name}_args")
    if name not in _QUERIES:
        return Outcome(name, refused="nothing asks for it", harmless=not isinstance(arguments, list))
    if not isinstance(query, str):
        return Outcome(name, refused="it is no text")
    if not isinstance(arguments, list) or not all(isinstance(item, str) and item.isidentifier() for item in arguments):
        return Outcome(name, refused=f"{name}_args is no list of names")
    made: dict[str, Converted] = {}
    try:
        for ours, names in _QUERIES[name].items():
            made[ours] = _made(query, arguments, ours, names)
    except ShoalError as error:
        return Outcome(name, refused=str(error))
    templates.update((ours, one.template) for ours, one in made.items())
    notes = dict.fromkeys(note for one in made.values() for note in one.notes)
    return Outcome(name, tuple(made), notes=tuple(notes))


def _made(query: str, arguments: Sequence[str], ours: str, names: Names) -> Converted:
    made = converted(query, arguments, names)
    needed = {"fitness": "answer"}.get(ours, "mutation_prompt" if ours.endswith("hypermutation") else "task_prompt")
    if needed not in outputs(made.template, ours):
        variable = next(old for old, new in names.outputs.items() if new == needed)
        raise NotConverted(1, f"no [{variable}] is written, which is what is read of it")
    return made


def _hjson(path: Path) -> dict[str, Any]:
    try:
        import hjson
    except ImportError:
        raise UsageError("reading LMQL folders needs hjson; pip install 'shoal[evolution]'") from None
    try:
        given = hjson.loads(read_text(path))
    except (hjson.HjsonDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not Hjson ({error})") from None
    if not isinstance(given, dict):
        raise UsageError(f"{path}: queries by name are needed, found {type(given).__name__}")
    return given


def _copied(old: Path, new: Path) -> None:
    """The lists and the tasks; runs are left where they are."""
    for name in ("mutation_prompts.json", "thinking_styles.json"):
        if (old / name).is_file():
            shutil.copyfile(old / name, new / name)
    for task in sorted(old.glob("*/task_description.json")):
        (new / task.parent.name).mkdir()
        shutil.copyfile(task, new / task.parent.name / task.name)


def _document(templates: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    lines = ["# Queries converted from LMQL. Those that are missing are the paper's."]
    for outcome in outcomes:
        for note in (outcome.refused, *outcome.notes):
            if note:
                lines += [f"# {outcome.query}: {line}" for line in note.splitlines()]
    return "\n".join(lines) + "\n\n" + _dump(templates)


def _dump(templates: Mapping[str, str]) -> str:
    class Dumper(yaml.SafeDumper):
        pass

    def block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, block)
    return str(yaml.dump(dict(templates), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1 << 20))
