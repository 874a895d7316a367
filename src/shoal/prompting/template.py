"""Texts with named gaps, `{name}`: prompts of the user's, and those that ship with shoal, one a file."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from shoal.errors import UsageError, did_you_mean

# `{{name}}` stands for a literal `{name}`; braces around anything but a name are text.
_GAP = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


class Piece(NamedTuple):
    """A piece of a template: literal text, or the name of a gap."""

    text: str
    name: str | None = None


class Template:
    """`Template("Q: {question}").fill({"question": "Why?"})`.

    Only `{name}` is a gap; every other brace is literal. What fills a gap is never searched for gaps again.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = frozenset(match[2] for match in _GAP.finditer(text) if match[2])

    def pieces(self) -> "list[Piece]":
        """The text in order: literal pieces and gaps."""
        found, at = [], 0
        for match in _GAP.finditer(self.text):
            found += [Piece(self.text[at : match.start()]), Piece(f"{{{match[1]}}}" if match[1] else "", match[2])]
            at = match.end()
        return [piece for piece in (*found, Piece(self.text[at:])) if piece.text or piece.name]

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
