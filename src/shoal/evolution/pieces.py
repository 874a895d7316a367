"""What the pieces of a run ask for, each followed on stand-ins at its smallest and at its largest.

A piece is what a run makes many times: a question put to a unit, a mutation by one operator. Its prompts hold what
models wrote before, so it is followed twice: on short texts that are all alike, and on texts as long as they may be,
all different, with lists as long as they come.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any

from msgspec import Struct, field, structs

from shoal.backends import BaseModel
from shoal.evolution.births import Breeds
from shoal.evolution.fitness import attempt
from shoal.evolution.mutators import offspring
from shoal.evolution.replies import LONGEST
from shoal.evolution.steps import Steps
from shoal.evolution.surroundings import Breeding, Surroundings
from shoal.evolution.unit import Scored, Unit, Working
from shoal.planning.dry_run import DryRun, Tally, following
from shoal.planning.following import spread
from shoal.planning.reckoning import counted_prompts
from shoal.planning.replies import brief, long
from shoal.runtime import registry
from shoal.runtime.concurrency import gather
from shoal.runtime.limits import USUAL_COMPLETION
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques.bounds import bound, is_fixed

_ROWS = 40  # that stand for all in prompts' lengths
_SHORT = "Do."
Ends = tuple[float, float]  # at the least, at the most
_NONE: Ends = (0.0, 0.0)


class Asked(Struct, frozen=True):
    """What a piece asks of one base model. `unlimited`: a reply has no limit of its own."""

    calls: Ends = _NONE
    wires: Ends = _NONE
    prompt: Ends = _NONE
    completion: Ends = _NONE
    unlimited: bool = False
    counted: bool = False

    def __add__(self, other: "Asked") -> "Asked":
        def both(one: Ends, two: Ends) -> Ends:
            return one[0] + two[0], one[1] + two[1]

        return Asked(
            both(self.calls, other.calls),
            both(self.wires, other.wires),
            both(self.prompt, other.prompt),
            both(self.completion, other.completion),
            self.unlimited or other.unlimited,
            self.counted or other.counted,
        )

    def times(self, least: float, most: float) -> "Asked":
        def scaled(one: Ends) -> Ends:
            return one[0] * least, one[1] * most

        ends = scaled(self.calls), scaled(self.wires), scaled(self.prompt), scaled(self.completion)
        return Asked(*ends, self.unlimited, self.counted)

    def either(self, other: "Asked") -> "Asked":
        """One of both, it is not known which."""

        def span(one: Ends, two: Ends) -> Ends:
            return min(one[0], two[0]), max(one[1], two[1])

        return Asked(
            span(self.calls, other.calls),
            span(self.wires, other.wires),
            span(self.prompt, other.prompt),
            span(self.completion, other.completion),
            self.unlimited or other.unlimited,
            self.counted or other.counted,
        )


class Piece(Struct, frozen=True):
    """What it asks of each base model, by name, and how many calls follow one another in it."""

    models: Mapping[str, Asked] = field(default_factory=dict)
    path: Ends = _NONE

    def __add__(self, other: "Piece") -> "Piece":
        names = self.models.keys() | other.models.keys()
        return Piece(
            {name: self.of(name) + other.of(name) for name in names},
            (max(self.path[0], other.path[0]), max(self.path[1], other.path[1])),
        )

    def of(self, name: str) -> Asked:
        return self.models.get(name, Asked())

    def times(self, least: float, most: float | None = None) -> "Piece":
        most = least if most is None else most
        return structs.replace(self, models={name: one.times(least, most) for name, one in self.models.items()})

    def either(self, other: "Piece") -> "Piece":
        names = self.models.keys() | other.models.keys()
        return Piece(
            {name: self.of(name).either(other.of(name)) for name in names},
            (min(self.path[0], other.path[0]), max(self.path[1], other.path[1])),
        )

    @property
    def calls(self) -> Ends:
        """Of all models."""
        asked = self.models.values()
        return sum(one.calls[0] for one in asked), sum(one.calls[1] for one in asked)


class Pieces:
    """The pieces of one run on `model`. `bases` are the base models that were met, by name."""

    def __init__(self, run: Breeding, model: Model) -> None:
        self.run = run
        self.model = model
        self.bases: dict[str, BaseModel] = {}
        self._operators: dict[str, Piece] = {}

    async def founders(self) -> Piece:
        """All founders, with the run's own chance: their prompts are those of the run."""
        size = self.run.settings.population_size

        async def work(run: Breeding, _: bool) -> None:
            breeds = Breeds(run)
            await gather(*(breeds.founder(slot) for slot in range(size)))

        return await self._followed(work)

    async def question(self, variant: str, rows: Sequence[Any], *, seed: bool = False) -> Piece:
        """One question put to a unit, or to the seed prompt: the mean over rows."""
        some = spread(rows, _ROWS)

        async def work(run: Breeding, much: bool) -> None:
            unit = Unit("seed", (run.task.seed,), "", run.task.system_prompt or "") if seed else self._unit(much, 0)
            for place, row in enumerate(some):  # one by one: each pays for its own request
                await attempt(unit, run, variant, row, (0, place))

        found = await self._followed(work)
        path = found.path[0] / len(some), found.path[1] / len(some)
        return structs.replace(found.times(1 / len(some)), path=path)

    async def mutation(self, name: str) -> Piece:
        """One offspring by an operator; first-order where it may have nothing to work with."""
        if name not in self._operators:
            found = await self._followed(lambda run, much: self._mutated(run, name, much))
            if name not in ("first_order_direct", "zero_order_direct") and not name.endswith("hypermutation"):
                found = found.either(await self.mutation("first_order_direct"))
            self._operators[name] = found
        return self._operators[name]

    async def request(self, request: Request, model: Model) -> Piece:
        """One call of a model."""

        async def work(_: Breeding, much: bool) -> None:
            await model(request)

        return await self._followed(work)

    # At the smallest and at the largest

    async def _mutated(self, run: Breeding, name: str, much: bool) -> None:
        settings = run.settings
        size = settings.population_size if much else 2
        workings = self._workings(much)
        population = [Scored(self._unit(much, i), i / size, workings=workings) for i in range(size)]
        elites = [self._unit(much, i) for i in range(max(1, settings.generations) if much else 1)]
        parent = population[0]
        decoder = {"temperature": parent.unit.temperature, **run.task.decoders.redescriber}
        around = Surroundings(run, _Known(population, elites), Random(0), (1, 0), decoder)
        await offspring(name, parent, around)

    def _unit(self, much: bool, number: int) -> Unit:
        run = self.run
        choose = max if much else min
        redescriber = run.task.decoders.redescriber
        text = _text(redescriber.get("max_tokens"), number) if much else _SHORT
        mutation_prompt = choose((*run.mutation_prompts, *([text] if much else [])), key=len)
        system = run.task.system_prompt if run.task.system_prompt is not None else text
        contexts = self._workings(much)[: run.settings.few_shot] if much else ()
        return Unit(
            f"0-{number}", (text,) * run.settings.prompts_per_unit, mutation_prompt, system or "", contexts, 1.0
        )

    def _workings(self, much: bool) -> tuple[Working, ...]:
        """As long as answers may be, on the longest question, and as many as are ever seen; or one that is short."""
        run, task = self.run, self.run.task
        questions = [task.question.fill(row) for row in spread(task.rows, _ROWS)]
        if not much:
            return (Working(min(questions, key=len), _SHORT),)
        limits = [
            role.get("max_tokens") or USUAL_COMPLETION for role in (task.decoders.inducer, task.decoders.evaluator)
        ]
        text = _text(limits[0] * max(1, run.settings.prompts_per_unit - 1) + limits[1], 0)
        return (Working(max(questions, key=len), text),) * min(len(task.rows), run.batch)

    async def _followed(self, work: Callable[[Breeding, bool], Awaitable[object]]) -> Piece:
        """Work followed on short replies and on long ones."""
        ways = []
        for replies, much in ((brief, False), (long, True)):
            dry, count = DryRun(replies, wide=True), _Counter(self.model)
            run = structs.replace(self.run, steps=Steps(), embed=_differing if much else _alike)
            with dry.on(), registry.using(count), following() as followed:
                await work(run, much)
            self.bases |= dry.bases
            ways.append((dry, count.calls, followed.path))
        models = {name: await self._asked(name, [(dry, calls) for dry, calls, _ in ways]) for name in self.bases}
        steps = bound(self.model).critical_path if not is_fixed(self.model) else 0
        paths = [path for _, _, path in ways]
        return Piece(models, (min(paths), max(*paths, steps * max(paths))))

    async def _asked(self, name: str, ways: Sequence[tuple[DryRun, int]]) -> Asked:
        base, ends = self.bases[name], []
        for dry, calls in ways:
            tally = dry.tallies.get(name) or Tally()
            tokens, counted = await counted_prompts(base, tally)
            ends.append((tally, tokens, counted, calls))
        tallies = [tally for tally, *_ in ends]
        least, most = min(tally.calls for tally in tallies), max(tally.calls for tally in tallies)
        each = max((tally.longest / tally.calls for tally in tallies if tally.calls), default=0.0)
        rates = [tokens / tally.calls for tally, tokens, _, _ in ends if tally.calls] or [0.0]
        if not is_fixed(self.model):  # replies decide: as few and as many as the technique can make
            cost = bound(self.model, base)
            least = min(least, *(calls * cost.fewest for *_, calls in ends))
            most = max(most, *(calls * cost.calls for *_, calls in ends))
        wires = (min(least, *(t.wire_requests for t in tallies)), max(t.wire_requests for t in tallies))
        return Asked(
            (least, most),
            wires if is_fixed(self.model) else (wires[0], most),
            (least * min(rates), most * max(rates)),
            (float(least) if each else 0.0, most * each),
            any(tally.unlimited for tally in tallies),
            any(counted for _, _, counted, _ in ends),
        )


class _Counter:
    """A model that counts what it is asked."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.calls = 0

    async def __call__(self, request: Request, /) -> Completion:
        self.calls += 1
        return await self.model(request)


class _Known(Struct, frozen=True):
    """A snapshot of units that are known."""

    scored: Sequence[Scored]
    best: Sequence[Unit]

    async def population(self) -> Sequence[Scored]:
        return self.scored

    async def elites(self) -> Sequence[Unit]:
        return self.best


def _text(tokens: int | None, number: int) -> str:
    """About as many tokens, no more than a prompt may have characters; each number another text."""
    words = f"{number} " + "and " * ((tokens or USUAL_COMPLETION) - 1)
    return words[:LONGEST].strip()


async def _alike(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0] for _ in texts]


async def _differing(texts: Sequence[str]) -> list[list[float]]:
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return [[float(places[text] == place) for place in range(len(places))] for text in texts]
