"""The queries of a breeder: composable templates by name, written out on the model that holds where they run."""

from collections.abc import Mapping
from importlib.resources import files
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


class Queries:
    """Templates by name. Those that are not given are the paper's; UsageError for a name that nothing asks for."""

    def __init__(self, given: Mapping[str, str] | None = None, *, where: str = "queries") -> None:
        given = given or {}
        for name in given:
            if name not in NAMES:
                raise UsageError(f"{where}: no query {name!r}; {did_you_mean(name, NAMES)}")
        texts = {**_paper(), **given}
        self.prompts = {name: JinjaPrompt(text, name=f"{where}, {name}") for name, text in texts.items()}
        # The one that is put to every question: what there is to do for it but ask is done once a unit.
        self._fitness = StraightPrompt(self.prompts["fitness"], "question", passing=("row",))

    async def write(self, name: str, **inputs: Any) -> Rendered:
        """The query written out, its calls put to the model in scope."""
        prompt = self._fitness if name == "fitness" else self.prompts[name]
        return await prompt.render(**inputs)


def _paper() -> dict[str, str]:
    text = files("shoal.evolution").joinpath("data", "breeder.yaml").read_text("utf-8")
    queries: dict[str, str] = yaml.safe_load(text)
    return queries
