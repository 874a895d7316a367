"""Texts with named gaps, `{name}`: prompts of the user's, and those that ship with shoal, one a file."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from shoal.errors import UsageError, did_you_mean

# `{{name}}` stands for a literal `{name}`; braces around anything but a name are text.
_GAP = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


class Template:
    """`Template("Q: {question}").fill({"question": "Why?"})`.

    Only `{name}` is a gap; every other brace is literal. What fills a gap is never searched for gaps again.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = frozenset(match[2] for match in _GAP.finditer(text) if match[2])

    def fill(self, values: Mapping[str, Any]) -> str:
        """The text with its gaps filled; UsageError names a gap that has no value."""
        for name in self.names:
            if name not in values:
                raise UsageError(f"the template names {{{name}}}, which is not there; {did_you_mean(name, values)}")

        def gap(match: re.Match[str]) -> str:
            return f"{{{match[1]}}}" if match[1] else _as_text(values[match[2]])

        return _GAP.sub(gap, self.text)


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


@cache
def prompt(name: str) -> Template:
    """The prompt of that name from the library that ships with shoal."""
    return Template(files("shoal.prompting").joinpath("library", f"{name}.md").read_text("utf-8").strip())
