"""The queries of a breeder: composable templates by name, written out on the model that holds where they run."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from shoal.errors import UsageError, did_you_mean
from shoal.prompting.composing.jinja import JinjaPrompt
from shoal.prompting.composing.straight import StraightPrompt
from shoal.prompting.composing.writing import Rendered

NAMES = (
    "initial",
    "fitness",
    "zero_order_direct",
    "first_order_direct",
    "estimation_of_distribution",
    "rank_and_index",
    "lineage",
    "zero_order_hypermutation",
    "first_order_hypermutation",
    "lamarckian",
)

# What is read of a query; of the others it is a task prompt.
_OUTPUT = {
    "fitness": "answer",
    "zero_order_hypermutation": "mutation_prompt",
    "first_order_hypermutation": "mutation_prompt",
}


class Queries:
    """Templates by name. Those that are not given are the paper's; UsageError for a name that nothing asks for.

    `whole` says that those for task prompts write all prompts of a unit at once, `system` that they write a system
    prompt beside.
    """

    def __init__(self, given: Mapping[str, str] | None = None, *, where: str = "queries") -> None:
        given = given or {}
        self.whole = self.system = False
        for name, text in given.items():
            if name not in NAMES:
                raise UsageError(f"{where}: no query {name!r}; {did_you_mean(name, NAMES)}")
            written, needed = outputs(text, f"{where}, {name}"), _OUTPUT.get(name, "task_prompt")
            if needed not in written:
                raise UsageError(f"{where}, {name}: nothing in it is called {needed!r}; give a call name={needed!r}")
            if name not in _OUTPUT:
                self.whole |= "reasoning_prompt" in written
                self.system |= "system_prompt" in written
        texts = {**_paper(), **given}
        self.prompts = {name: JinjaPrompt(text, name=f"{where}, {name}") for name, text in texts.items()}
        # The one that is put to every question: what there is to do for it but ask is done once a unit.
        self._fitness = StraightPrompt(self.prompts["fitness"], "question", passing=("row",))

    def inputs(self, name: str) -> set[str]:
        """What a query reads."""
        from jinja2 import meta

        from shoal.prompting.composing.environment import environment

        return meta.find_undeclared_variables(environment.parse(self.prompts[name].text))

    async def write(self, name: str, **inputs: Any) -> Rendered:
        """The query written out, its calls put to the model in scope."""
        prompt = self._fitness if name == "fitness" else self.prompts[name]
        return await prompt.render(**inputs)


def outputs(text: str, where: str) -> set[str]:
    """The names of what a template's calls give, as far as it says them itself."""
    from jinja2 import TemplateSyntaxError, nodes

    from shoal.prompting.composing.environment import environment

    try:
        tree = environment.parse(text)
    except TemplateSyntaxError as error:
        raise UsageError(f"{where}, line {error.lineno}: {error.message}") from None
    targets = [assigned.target for assigned in tree.find_all(nodes.Assign)]
    found = {target.name for target in targets if isinstance(target, nodes.Name)}
    for call in tree.find_all(nodes.Call):
        named = [word.value for word in call.kwargs if word.key == "name"]
        stored = call.args[:1] if isinstance(call.node, nodes.Name) and call.node.name == "store" else []
        section = call.args[2:3] if isinstance(call.node, nodes.ExtensionAttribute) else []
        found |= {node.value for node in (*named, *stored, *section) if isinstance(node, nodes.Const)}
    return found


def read_queries(folder: Path) -> Queries:
    """The queries of a folder: of `breeder.yaml`, or of `breeder/NAME.jinja`, one a file.

    UsageError where a file cannot be read, or names a query that there is none of.
    """
    file, many = folder / "breeder.yaml", folder / "breeder"
    if many.is_dir():
        if file.exists():
            raise UsageError(f"{folder}: both breeder.yaml and breeder/; which is it?")
        return Queries({path.stem: _read(path) for path in sorted(many.glob("*.jinja"))}, where=str(many))
    if file.exists():
        return Queries(_parsed(_read(file), str(file)), where=str(file))
    if (folder / "breeder.lmql").exists():
        raise UsageError(f"{folder}: its queries are written in LMQL; `shoal evolve --convert {folder} NEW_FOLDER`")
    return Queries()


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _parsed(text: str, where: str) -> dict[str, str]:
    try:
        given = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{where}{line}: not YAML ({getattr(error, 'problem', error)})") from None
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise UsageError(f"{where}: queries by name are needed, found {type(given).__name__}")
    for name, query in given.items():
        if not isinstance(name, str) or not isinstance(query, str):
            raise UsageError(
                f"{where}, {name}: a template is needed; write `{name}: |-` and its text indented under it"
            )
    return given


def _paper() -> dict[str, str]:
    text = files("shoal.evolution").joinpath("data", "breeder.yaml").read_text("utf-8")
    queries: dict[str, str] = yaml.safe_load(text)
    return queries
