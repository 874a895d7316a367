"""Procedural tasks of the library reasoning-gym, `puzzle/NAME?size=200&seed=1`: generated to a file, verified by it."""

import contextlib
import dataclasses
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from shoal.batch.rows import Row
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.datasets import Suggested
from shoal.runtime.cache import default_cache_path

PREFIX = "puzzle/"
SUGGESTED = Suggested('{question}\nEnd with "The answer is" and the answer.', "answer", "puzzle")
SIZE = 200
_LARGEST = 100_000
_LONGEST = 10_000  # characters of an answer that are verified

# Some of the library's verifiers evaluate the answer as Python, which is for a sandbox only, and others take for ever
# on a hostile one. Allowed are the puzzles with the verifier that all inherit, which compares texts, and those below,
# whose own was read in this version.
_VERSION = "0.1.25"
_READ = frozenset(
    (
        "advanced_geometry",
        "calendar_arithmetic",
        "chain_sum",
        "decimal_chain_sum",
        "dice",
        "emoji_mystery",
        "family_relationships",
        "gsm_symbolic",
        "mini_sudoku",
        "needle_haystack",
        "number_format",
        "palindrome_generation",
        "products",
        "rectangle_count",
        "sentence_reordering",
        "spell_backward",
        "sudoku",
        "word_ladder",
        "word_sorting",
        "zebra_puzzles",
    )
)


class Puzzle(Struct, frozen=True):
    """A kind of puzzle, with how many and from which seed, and the generator's further options."""

    name: str
    size: int = SIZE
    seed: int = 1
    config: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """Where its rows are kept: by all that they depend on."""
        options = "".join(f"-{key}={value}" for key, value in sorted(self.config.items()))
        name = re.sub(r"[^\w.=-]", "_", f"{self.name}-size={self.size}-seed={self.seed}{options}-{_VERSION}")
        return default_cache_path().parent / "puzzles" / f"{name}.jsonl"


def parse(text: str) -> Puzzle:
    """`puzzle/NAME?size=200&seed=1&OPTION=VALUE`, checked; UsageError says what is unknown, and what is near."""
    name, _, query = text.removeprefix(PREFIX).partition("?")
    try:
        given = dict(parse_qsl(query, strict_parsing=True)) if query else {}
        size, seed = int(given.pop("size", SIZE)), int(given.pop("seed", 1))
    except ValueError:
        raise UsageError(f"{text}: expected puzzle/NAME?size=200&seed=1") from None
    if not 0 < size <= _LARGEST or not 0 <= seed < 1 << 32:
        raise UsageError(f"{text}: size is 1 to {_LARGEST}, seed 0 to {(1 << 32) - 1}")
    _check(name)
    defaults = _defaults(name)
    for option in given:
        if option not in defaults:
            raise UsageError(f"{text}: {name} has no option {option!r}; {did_you_mean(option, defaults)}")
    try:
        config = {key: msgspec.convert(value, type(defaults[key]), strict=False) for key, value in given.items()}
    except msgspec.ValidationError as error:
        raise UsageError(f"{text}: {error}") from None
    return Puzzle(name, size, seed, config)


def generated(puzzle: Puzzle) -> Path:
    """The file with its rows; made at the first use, the same for ever.

    Some generators go by the order of a set, so they run in a process whose hashes are always the same.
    """
    if not puzzle.path.exists():
        _library()
        command = [sys.executable, "-P", "-m", "shoal.evaluation.datasets.generation"]
        order = msgspec.json.encode(puzzle)
        made = subprocess.run(command, input=order, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "0"})
        if made.returncode or not puzzle.path.exists():
            said = made.stderr.decode(errors="replace").strip().splitlines() or ["the generator ended"]
            raise UsageError(f"{PREFIX}{puzzle.name}: {said[-1]}")
    return puzzle.path


def names() -> list[str]:
    """The puzzles whose verifier may judge what a model wrote."""
    return sorted(name for name in _library().DATASETS if _allowed(name))


def verify(row: Row, answer: str) -> float:
    """How right the answer to a row is, by the library's own verifier: 1.0, or less where it gives part of the credit.

    Raises UsageError for a row that is not a puzzle's.
    """
    name, config, metadata = row.get("puzzle"), row.get("config"), row.get("metadata")
    if not isinstance(name, str) or not isinstance(config, dict) or not isinstance(metadata, dict):
        raise UsageError("the scorer puzzle needs rows of a puzzle: shoal data puzzles")
    if len(answer) > _LONGEST:
        return 0.0
    entry = {"question": row.get("question"), "answer": row.get("answer"), "metadata": metadata}
    try:
        with quiet():
            score = _dataset(name, msgspec.json.encode(config, order="sorted")).score_answer(answer, entry)
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return 0.0  # an answer that the verifier cannot read
    return min(max(float(score), 0.0), 1.0)


def rows(puzzle: Puzzle) -> Iterator[Row]:
    """The rows of a puzzle, from the generator; UsageError where it refuses the options."""
    with quiet():
        try:
            dataset = _library().create_dataset(puzzle.name, size=puzzle.size, seed=puzzle.seed, **puzzle.config)
        except (AssertionError, ValueError, TypeError) as error:
            raise UsageError(f"the generator refuses the options: {error}") from None
        for number in range(puzzle.size):
            entry = dataset[number]
            told = {name: entry[name] for name in ("question", "answer", "metadata")}
            identity = f"{puzzle.name}-{puzzle.seed}-{number}"
            yield {"id": identity, **told, "puzzle": puzzle.name, "config": puzzle.config}


@cache
def _dataset(name: str, config: bytes) -> Any:
    _check(name)
    return _library().create_dataset(name, size=1, seed=0, **msgspec.json.decode(config))


def _defaults(name: str) -> Mapping[str, Any]:
    """The options of a generator that are one number, word or truth value, with their defaults."""
    fields = dataclasses.fields(_library().DATASETS[name][1])
    simple = {field.name: field.default for field in fields if isinstance(field.default, bool | int | float | str)}
    return {key: value for key, value in simple.items() if key not in ("size", "seed")}


def _check(name: str) -> None:
    if name not in _library().DATASETS:
        raise UsageError(f"no puzzle {name!r}; {did_you_mean(name, names())}")
    if not _allowed(name):
        raise UsageError(
            f"puzzle/{name} is refused: its verifier runs the answer as code, or was not found safe for a model's text"
        )


def _allowed(name: str) -> bool:
    library = _library()
    return name in _READ or library.DATASETS[name][0].score_answer is library.ProceduralDataset.score_answer


@cache
def _library() -> Any:
    """The factory of reasoning_gym: heavy, so only where a puzzle is asked for."""
    try:
        with quiet():
            import reasoning_gym
    except ImportError:
        raise UsageError("puzzles need reasoning-gym; pip install 'shoal[puzzles]'") from None
    found = importlib.metadata.version("reasoning-gym")
    if found != _VERSION:
        raise UsageError(f"puzzles need reasoning-gym {_VERSION}, not {found}; pip install 'shoal[puzzles]'")
    return reasoning_gym.factory


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the library prints and warns of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
