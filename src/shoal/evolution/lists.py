"""The lists that founders and hyper-mutations draw from: the paper's, or files of the user's."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from shoal.errors import UsageError
from shoal.evolution.files import read_text


def mutation_prompts(path: Path | None = None) -> tuple[str, ...]:
    """The prompts that change a prompt: the paper's 56, or those of a file."""
    return read_list(path) if path else _paper("mutation_prompts.json")


def thinking_styles(path: Path | None = None) -> tuple[str, ...]:
    """General hints on how to think: the paper's 39, or those of a file."""
    return read_list(path) if path else _paper("thinking_styles.json")


def read_list(path: Path) -> tuple[str, ...]:
    """The texts of a JSON file: a list of them, or an object whose keys number them, "1", "2"...

    UsageError for a file that is not there or is neither.
    """
    return _texts(str(path), read_text(path))


def _paper(name: str) -> tuple[str, ...]:
    return _texts(name, files("shoal.evolution").joinpath("data", name).read_text("utf-8"))


def _texts(where: str, text: str) -> tuple[str, ...]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from None
    if isinstance(given, Mapping):
        given = _numbered(where, given)
    if not isinstance(given, list) or not given:
        raise UsageError(f'{where}: a list of texts, or an object of them with the keys "1", "2"..., is needed')
    for number, item in enumerate(given, 1):
        if not isinstance(item, str) or not item.strip():
            raise UsageError(f"{where}, item {number}: a text is needed, not {json.dumps(item)[:60]}")
    return tuple(item.strip() for item in given)


def _numbered(where: str, given: Mapping[str, Any]) -> list[Any]:
    for key in given:
        if not (key.isascii() and key.isdigit()):
            raise UsageError(f"{where}: the key {key[:60]!r} is not a number")
    return [given[key] for key in sorted(given, key=int)]
