"""Running techniques and single samples on rows of real data: each row is bounded, everything finished is kept."""

import asyncio
import inspect
import json
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.comparison import Draw, Equal, equal_tokens

import shoal
from shoal import prompting
from shoal.errors import ShoalError
from shoal.prompting.answers import normalise
from shoal.runtime import scope
from shoal.runtime.model import Applied
from shoal.techniques.spec import parse_spec

BLOCK = 8  # draws that a pool grows by
Records = list[shoal.Record]


class Task(NamedTuple):
    """How a data file is asked and scored; `examples` are of no row, for techniques that learn from some."""

    template: str
    gold: str
    scorer: str
    examples: tuple[tuple[str, str], ...]


_CAPITAL = "What is the capital of {country}?"
TASKS = {
    "capitals": Task(
        _CAPITAL,
        "capital",
        "exact",
        tuple(
            (_CAPITAL.format(country=country), f"The capital of {country} is {capital}.")
            for country, capital in (("Egypt", "Cairo"), ("Japan", "Tokyo"), ("Canada", "Ottawa"))
        ),
    ),
    "gsm8k": Task(
        '{question}\nThink step by step, then end with "The answer is" and the number.',
        "answer",
        "number",
        (
            ("A box holds 6 eggs. How many eggs are in 4 boxes?", "Each of 4 boxes holds 6 eggs. The answer is 24."),
            ("Ann has 15 pens and gives 6 away. How many has she left?", "She has 15 - 6 left. The answer is 9."),
        ),
    ),
}


class Settings(NamedTuple):
    """What every row is asked under, and what it may spend."""

    temperature: float = 0.7
    max_tokens: int = 64
    thinking_tokens: int = 96
    row_tokens: int = 20_000
    row_seconds: float = 1800


class RowTooLong(ShoalError):
    """A row has spent all the tokens that a row may."""


class _Meter:
    """What a row has spent so far. Draws that were kept count like new ones, so that a repetition ends alike."""

    tokens = 0


_meter: ContextVar[_Meter] = ContextVar("meter")


async def row_bounds(model: shoal.Model, request: shoal.Request, *, seconds: float) -> shoal.Completion:
    """A row with a meter of its own and so many seconds."""
    with scope.setting(_meter, _Meter()):
        async with asyncio.timeout(seconds):
            return await model(request)


async def call_bounds(
    model: shoal.Model, request: shoal.Request, *, thinking_tokens: int, row_tokens: int
) -> shoal.Completion:
    """A call bounded in length where nobody said how long, and refused when its row has spent enough."""
    meter = _meter.get()
    if meter.tokens >= row_tokens:
        raise RowTooLong(f"the row has spent {meter.tokens} tokens and may spend {row_tokens}")
    length = request.params.max_tokens or thinking_tokens
    completion = await model(request.with_params(max_tokens=length))
    meter.tokens += completion.usage.total_tokens + completion.usage.cached_tokens
    return completion


async def numbered_draw(model: shoal.Model, request: shoal.Request, *, number: int) -> shoal.Completion:
    """One single sample, under the name that `shoal.sample` gives it."""
    return await model(request.draw(number))


class Clock:
    """Seconds at work, kept in a file: they go on after a stop, and a run that finds all done adds none."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._start = path, time.monotonic()
        self._before = self.seconds

    @property
    def seconds(self) -> float:
        return float(self._path.read_text()) if self._path.exists() else 0.0

    def tick(self) -> None:
        self._path.write_text(str(self._before + time.monotonic() - self._start))


class Runs:
    """The rows of one data file, asked of one model. `pool` holds single samples, a list of records for each draw."""

    def __init__(self, model: shoal.Model, data: Path, rows: int, settings: Settings, keep: Path) -> None:
        self.task, self.settings, self.name = TASKS[data.stem], settings, repr(model)
        self.rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()[:rows]]
        spend = {"thinking_tokens": settings.thinking_tokens, "row_tokens": settings.row_tokens}
        self.base = shoal.apply(call_bounds, model, **spend)
        self.keep = keep / f"{data.stem}-{len(self.rows)}"
        self.pool: list[Records] = []

    async def technique(self, spec: str) -> tuple[Records, float]:
        """Its records, and the seconds that they took."""
        applied = parse_spec(f"{spec}@base", lambda _: self.base)
        assert isinstance(applied, Applied)
        if "examples" in inspect.signature(applied.technique).parameters:
            applied.options.setdefault("examples", self.task.examples)
        place = self._place(spec, applied.technique)
        clock = Clock(place.with_suffix(".seconds"))

        def progress(now: Any) -> None:
            clock.tick()
            done = now.resumed + now.finished
            print(f"\r{spec}: {done} of {now.total} rows, {now.failed} failed", end="", file=sys.stderr, flush=True)

        records = await self._map(applied, place, progress)
        print(f"\r{spec}: {clock.seconds:.0f} s{' ' * 30}", file=sys.stderr, flush=True)
        return records, clock.seconds

    async def grow(self, draws: int) -> float:
        """Have at least so many draws of every row in the pool; the seconds that all of them took."""
        place = self._place("single sample")
        clock = Clock(place.with_suffix(".seconds"))
        while len(self.pool) < draws:
            numbers = range(len(self.pool), len(self.pool) + BLOCK)
            models = {number: shoal.apply(numbered_draw, self.base, number=number) for number in numbers}
            runs = (self._map(model, place / str(number), lambda _: clock.tick()) for number, model in models.items())
            self.pool += await shoal.gather(*runs)
        return clock.seconds

    async def _map(self, model: shoal.Model, place: Path, progress: Callable[[Any], None]) -> Records:
        place.parent.mkdir(parents=True, exist_ok=True)
        return await shoal.amap(
            shoal.apply(row_bounds, model, seconds=self.settings.row_seconds),
            self.rows,
            template=self.task.template,
            params=shoal.SamplingParams(temperature=self.settings.temperature, max_tokens=self.settings.max_tokens),
            run_dir=place,
            score=shoal.open_scorer(self.task.scorer),
            target=self.task.gold,
            on_progress=progress,
        )

    def _place(self, what: str, technique: Callable[..., Any] | None = None) -> Path:
        """A folder's name: another one for another model, other settings and a changed technique."""
        identity = repr((what, self.name, self.settings, self.task, technique and _sources(technique)))
        digest = blake2b(identity.encode(), digest_size=5).hexdigest()
        return self.keep / f"{re.sub('[^a-z0-9]+', '_', what.lower()).strip('_')}-{digest}"

    def draws_of(self, row: int) -> list[Draw]:
        """The pool's draws of a row."""
        return [_draw(records[row]) for records in self.pool]

    def prompt_tokens(self, row: int) -> int:
        """What a row's prompt costs: draws that went out together share it, and it stands with one of them."""
        return max(records[row].usage.prompt_tokens for records in self.pool)

    def equal(self, records: Records) -> list[Equal]:
        """For each row the vote over as many single samples as the tokens of its record pay for."""
        return [equal_tokens(self.draws_of(i), self.prompt_tokens(i), tokens(r)) for i, r in enumerate(records)]


def _sources(technique: Callable[..., Any]) -> list[str]:
    """The text of a technique, of what it may share with others, and of the prompts that these name."""
    file = Path(inspect.getfile(technique))
    sources = [path.read_text("utf-8") for path in (file, *sorted(file.parent.glob("_[a-z]*.py")))]
    library = sorted(Path(prompting.__file__).parent.glob("library/*.md"))
    return sources + [p.read_text("utf-8") for p in library if any(f'"{p.stem}"' in source for source in sources)]


def _draw(record: shoal.Record) -> Draw:
    return Draw(
        None if record.answer is None else normalise(record.answer), right(record), record.usage.completion_tokens
    )


def right(record: shoal.Record) -> float:
    """A row that failed is not right; how many failed is told beside."""
    return record.score if isinstance(record.score, float) else 0.0


def tokens(record: shoal.Record) -> int:
    return record.usage.prompt_tokens + record.usage.completion_tokens
