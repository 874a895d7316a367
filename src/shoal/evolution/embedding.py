"""How alike texts are: where their vectors come from, and what is made of them.

Three sources: `wordllama` where it is installed (`shoal[evolution]`; its weights come with it), a model with
embeddings, and, without either, the counts of a text's three-letter sequences.
"""

import asyncio
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import sqrt
from operator import mul
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary
from zlib import crc32

from msgspec import structs

from shoal.evolution.surroundings import Embed
from shoal.evolution.unit import Scored

_REMEMBERED = 10_000  # vectors
_WIDTH = 1024  # of the vectors of `lexical`


class Embeds(Protocol):
    """A model with embeddings: `shoal.backends.BaseModel` on an endpoint that has them."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]: ...


def embedder(model: Embeds | None = None) -> Embed:
    """What gives texts their vectors: the model, else wordllama, else `lexical`, which a warning says once."""
    if model is not None:
        return remembered(model.embed)
    if find_spec("wordllama") is not None:
        return remembered(_WordLlama())
    warnings.warn(
        "texts are compared by their letters; for their meaning: pip install 'shoal[evolution]'", stacklevel=2
    )
    return lexical


def remembered(embed: Embed) -> Embed:
    """The same, asked only once for a text."""
    vectors: dict[str, list[float]] = {}
    turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()  # a lock is of one loop

    async def ask(texts: Sequence[str]) -> list[list[float]]:
        async with turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            new = [text for text in dict.fromkeys(texts) if text not in vectors]
            known = {text: vectors[text] for text in texts if text in vectors}
            if new:
                known.update(zip(new, await embed(new), strict=True))
            vectors.update(known)
            while len(vectors) > _REMEMBERED:
                del vectors[next(iter(vectors))]
        return [known[text] for text in texts]

    return ask


async def lexical(texts: Sequence[str]) -> list[list[float]]:
    """How often each sequence of three letters occurs in a text, sequences put together into 1024 classes."""
    return [_trigrams(text) for text in texts]


def _trigrams(text: str) -> list[float]:
    padded = f" {' '.join(text.lower().split())} "
    counts = Counter(crc32(padded[i : i + 3].encode("utf-8", "replace")) % _WIDTH for i in range(len(padded) - 2))
    return [float(counts[place]) for place in range(_WIDTH)]


class _WordLlama:
    """The weights within the wordllama package, loaded in a thread when first needed. It never asks the network."""

    def __init__(self) -> None:
        self._model: Any = None

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._embed, list(texts))

    def _embed(self, texts: list[str]) -> list[list[float]]:
        if self._model is None:
            self._model = _load_wordllama()
        vectors: list[list[float]] = self._model.embed(texts).tolist()
        return vectors


def _load_wordllama() -> Any:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    import wordllama  # sets up the root logger

    root.handlers[:], root.level = before
    # As its cache it is given its own folder: there its tokenizer lies, which it looks for elsewhere first.
    folder = Path(str(wordllama.__file__)).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """The cosine of two vectors, from -1.0 to 1.0; 0.0 where one has no length."""
    lengths = sqrt(sum(map(mul, a, a)) * sum(map(mul, b, b)))
    return sum(map(mul, a, b)) / lengths if lengths else 0.0


def cosines(vectors: Sequence[Sequence[float]]) -> Callable[[int, int], float]:
    """The cosine of two of many vectors, by their places; each vector's length is found once."""
    squares = [sum(map(mul, vector, vector)) for vector in vectors]

    def of(i: int, j: int) -> float:
        lengths = sqrt(squares[i] * squares[j])
        return sum(map(mul, vectors[i], vectors[j])) / lengths if lengths else 0.0

    return of


async def diversity(prompts: Sequence[str], embed: Embed) -> float:
    """How different texts are: the mean of 1 - cosine over all pairs; 0.0 for fewer than two."""
    if len(prompts) < 2:
        return 0.0
    directions = [_direction(vector) for vector in await embed(prompts)]
    count, lengths = len(directions), sum(any(direction) for direction in directions)
    # The square of their sum is each one's own length, 1 or 0, and twice the cosine of each pair.
    square: float = sum(sum(column) ** 2 for column in zip(*directions, strict=True))
    return 1.0 - (square - lengths) / (count * (count - 1))


def _direction(vector: Sequence[float]) -> list[float]:
    length = sqrt(sum(map(mul, vector, vector)))
    return [value / length for value in vector] if length else list(vector)


async def shared(scored: Scored, population: Sequence[Scored], embed: Embed) -> Scored:
    """The unit with its fitness divided by how many are like it: 1 for itself, and each other's cosine above 0."""
    others = [other for other in population if other.unit.id != scored.unit.id]
    own, *vectors = await embed(["\n".join(one.unit.task_prompts) for one in (scored, *others)])
    niche = 1.0 + sum(max(0.0, cosine(own, vector)) for vector in vectors)
    return structs.replace(scored, fitness=scored.fitness / niche)
