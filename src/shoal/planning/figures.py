"""What a plan tells: figures or intervals, each with where it comes from."""

import math
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from shoal.backends.prices import Quote

# From the surest: counted call by call in a dry run of every row; by the catalogue's formulas; scaled up from some of
# the rows; as the program went on stand-in replies; predicted from a pilot; assumed.
Source = Literal["exact", "formula", "sample", "dry run", "pilot", "assumption"]
_FROM_THE_SUREST: tuple[Source, ...] = ("exact", "formula", "sample", "dry run", "pilot", "assumption")


class Figure(Struct, frozen=True):
    """A number between `least` and `most`, both included, and how it was found. Equal ends are one number."""

    least: float
    most: float
    source: Source

    def __add__(self, other: "Figure") -> "Figure":
        return Figure(self.least + other.least, self.most + other.most, least_sure((self.source, other.source)))

    def times(self, least: float, most: float | None = None) -> "Figure":
        return Figure(self.least * least, self.most * (least if most is None else most), self.source)

    def within(self, outer: "Figure") -> "Figure":
        """This figure, held to what another one says is possible."""
        least = min(max(self.least, outer.least), outer.most)
        return Figure(least, max(least, min(self.most, outer.most)), self.source)


def least_sure(sources: Iterable[Source]) -> Source:
    return max(sources, key=_FROM_THE_SUREST.index)


def total(figures: Iterable[Figure]) -> Figure:
    """The sum; no figures are exactly nothing."""
    sum_ = None
    for figure in figures:
        sum_ = figure if sum_ is None else sum_ + figure
    return sum_ or Figure(0, 0, "exact")


class ModelPlan(Struct, frozen=True):
    """What one base model will be asked. `calls` are draws to be paid for; `kept` draws come for nothing.

    `wire_requests` are what they are after fusing. `prompt_tokens` are by the model's own tokenizer where `tokenizer`
    is set, otherwise by length. `dollars` is None where the price is unknown, and `price` says which was used.
    """

    model: str
    calls: Figure
    wire_requests: Figure
    prompt_tokens: Figure
    completion_tokens: Figure
    dollars: Figure | None = None
    price: Quote | None = None
    kept: int = 0
    tokenizer: bool = False

    @property
    def tokens(self) -> Figure:
        return self.prompt_tokens + self.completion_tokens


class Pilot(Struct, frozen=True):
    """Run `rows` rows for real, chosen by `seed` from all parts of the input, and predict the rest from them."""

    rows: int
    seed: int = 0


class Piloted(Struct, frozen=True):
    """What a pilot did and cost: `rows` by number, those that `failed`, calls and tokens paid, wall time."""

    rows: tuple[int, ...]
    failed: int
    calls: int
    tokens: int
    seconds: float
    confidence: float


class Plan(Struct, frozen=True):
    """What remains of a run, before it runs. All figures are of what is left to do and to pay.

    `done` of the `rows` are finished, `left` are those that the figures are of: the others but those of a pilot.
    `followed` were followed through the dry run and stand for them. `path` is how many
    calls a row makes one after another, at the most over the rows; `steps` how many rounds of wire requests the run
    takes at the models' `max_in_flight`. `kept` draws come for nothing. `seconds` and `dollars` are None where they
    cannot be said; `notes` say why, and whatever else a reader should know. Of a run by a provider's batch API, `waves`
    are the batches that must follow one another, `dollars` are at its price and `live_dollars` what all would be live.
    """

    rows: int
    done: int
    left: int
    followed: int
    calls: Figure
    wire_requests: Figure
    path: Figure
    steps: Figure
    prompt_tokens: Figure
    completion_tokens: Figure
    seconds: Figure | None
    dollars: Figure | None
    models: tuple[ModelPlan, ...]
    kept: int = 0
    pilot: Piloted | None = None
    notes: tuple[str, ...] = ()
    waves: Figure | None = None
    live_dollars: Figure | None = None

    @property
    def tokens(self) -> Figure:
        return self.prompt_tokens + self.completion_tokens


def whole(figure: Figure) -> Figure:
    """The figure in whole numbers, no narrower than it is."""
    return Figure(math.floor(figure.least + 1e-9), math.ceil(figure.most - 1e-9), figure.source)
