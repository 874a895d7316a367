"""What a run of evolution will cost, before it is begun or gone on with: calls, requests, tokens, seconds, dollars.

How often each piece is made is known before: by the settings, and by the seed, which names chance. What a piece asks is
followed on stand-ins. What replies decide is told as an interval.
"""

import math
from collections.abc import Mapping

from msgspec import Struct, structs

from shoal.backends import BaseModel
from shoal.backends.prices import NoPrice, Price, quote
from shoal.batch.rows import Row
from shoal.errors import ShoalError, UsageError
from shoal.evolution.births import operator
from shoal.evolution.chance import chance
from shoal.evolution.fitness import attempt, sampled
from shoal.evolution.gepa import GepaEvolution
from shoal.evolution.held_out import seed_unit
from shoal.evolution.pieces import Asked, Piece, Pieces
from shoal.evolution.planning import evaluations
from shoal.evolution.reflective import LONGEST
from shoal.evolution.snapshot import Snapshot
from shoal.evolution.surroundings import Breeding, Surroundings
from shoal.evolution.tournament import pairing
from shoal.planning import Figure, ModelPlan, Pilot, Plan
from shoal.planning.figures import Source, total, whole
from shoal.planning.narrowing import predicted_seconds
from shoal.planning.pilot import Measured, rows_for, run_pilot
from shoal.planning.predicting import predicted
from shoal.planning.reckoning import priced
from shoal.planning.times import assumed_seconds, limited
from shoal.runtime import registry
from shoal.runtime.limits import USUAL_COMPLETION
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request

_AROUND = 400  # characters about an answer in a reflection's prompt


class Begun(Struct, frozen=True):
    """What a run has done: `complete` generations, founders among them, and `draws` of the next that it has."""

    complete: int = 0
    draws: int = 0


class EvolutionPlan(Struct, frozen=True):
    """What remains of a run. `parts` are calls by what they are for; `total.rows` are the questions to be answered."""

    parts: dict[str, Figure]
    total: Plan


class Ways(Struct, frozen=True):
    """How a plan is made: with which prices, and with a `pilot` that puts questions to the seed prompt for real."""

    prices: Mapping[str, Price] = {}
    pilot: Pilot | None = None


async def plan_breeding(
    run: Breeding, model: Model, begun: Begun | None = None, ways: Ways | None = None
) -> EvolutionPlan:
    """The plan of a run of PromptBreeder that goes to its last generation.

    Nothing is asked and nothing is written, but by a pilot. Raises UsageError where the run could not begin.
    """
    begun, ways = begun or Begun(), ways or Ways()
    pieces, settings = Pieces(run, model), run.settings
    asked = {variant: await pieces.question(variant, run.task.rows) for variant in settings.variants}
    answer = Piece()
    for one in asked.values():
        answer = answer + one
    bred = await _mutations(pieces, begun.complete)
    parts = {
        "founders": await pieces.founders() if not begun.complete else Piece(),
        "fitness": answer.times(*_questions(run, begun.complete)),
        "mutations": bred,
        "held-out rows": await _held_out(pieces, asked),
    }
    path = _path(run, parts, answer, begun.complete)
    return await _told(pieces, parts, path, begun, ways)


async def plan_gepa(evolution: GepaEvolution, begun: Begun | None = None, ways: Ways | None = None) -> EvolutionPlan:
    """The plan of a run of GEPA: all of its rollouts, and at most a reflection for each minibatch of them.

    A run ends where the rollouts that are left are not enough for a candidate more. One that goes on begins again on
    the draws that it has.
    """
    run, begun = evolution.run, begun or Begun()
    pieces, variant, rollouts = Pieces(run, evolution.model), run.settings.variants[0], evolution.pool.most
    answer = await pieces.question(variant, run.task.rows)
    reflected = await pieces.request(_longest_reflection(evolution), evolution.reflection_model)
    parts = {
        "rollouts": answer.times(rollouts - evolution.least + 1 if sampled(run) else 0, rollouts),
        "reflections": reflected.times(0, evolution.reflections),
        "held-out rows": await _held_out(pieces, {variant: answer}),
    }
    rounds = answer.path[1] * (1 + 3 * evolution.reflections) + reflected.path[1] * evolution.reflections
    path = Figure(answer.path[0], rounds + parts["held-out rows"].path[1], "formula")
    return await _told(pieces, parts, path, begun, ways or Ways())


def _longest_reflection(evolution: GepaEvolution) -> Request:
    """A prompt as long as it may be, and a minibatch of answers as long as they may be."""
    task = evolution.run.task
    answers = sum(
        role.get("max_tokens") or USUAL_COMPLETION for role in (task.decoders.inducer, task.decoders.evaluator)
    )
    question = max(len(task.question.fill(row)) for row in task.rows)
    characters = LONGEST + evolution.gepa.minibatch * (question + 4 * answers + _AROUND)
    return Request.of("and " * (characters // 4), **evolution.gepa.reflection)


# How often


def _questions(run: Breeding, complete: int) -> tuple[int, int]:
    """Questions that units are asked, at the least and at the most.

    Where answers are not sampled an equal question is asked once in a run, however many units have the same prompts.
    """
    settings = run.settings
    batch = min(settings.batch or len(run.task.rows), len(run.task.rows))
    left = evaluations(settings)
    if complete:
        each = settings.population_size if settings.batch is not None else settings.population_size // 2
        left = max(0, settings.generations + 1 - complete) * each
    if sampled(run):
        return left * batch, left * batch
    return (0 if complete else _distinct(run, batch)), left * batch


def _distinct(run: Breeding, batch: int) -> int:
    """How many rows the founders are asked, by the run's own chance; equal ones once."""
    settings, rows = run.settings, run.task.rows
    drawn: set[str] = set()
    texts = [run.task.question.fill(row) for row in rows]
    for slot in range(settings.population_size):
        random = chance(settings.seed, "questions", 0, slot)
        drawn |= set(texts if batch >= len(rows) else random.sample(texts, batch))
    return len(drawn)


async def _mutations(pieces: Pieces, complete: int) -> Piece:
    """All offspring. Chance is named by generation and slot: of each pair it is open only which slot is overwritten."""
    run, made = pieces.run, Piece()
    settings = run.settings
    for number in range(max(1, complete), settings.generations + 1):
        pairs = pairing(settings.seed, number, settings.population_size)
        for slot, partner in pairs.items():
            if slot > partner:
                continue
            one, other = [await pieces.mutation(_operator(run, number, place)) for place in (slot, partner)]
            made = made + (one + other if settings.speculate else one.either(other))
    return made


def _operator(run: Breeding, number: int, slot: int) -> str:
    random = chance(run.settings.seed, "mutation", number, slot)
    return operator(run, Surroundings(run, Snapshot([]), random, (number, slot), {}))


async def _held_out(pieces: Pieces, asked: Mapping[str, Piece]) -> Piece:
    """The seed prompt and the best unit on the held-out rows, in whichever variant is best."""
    rows = pieces.run.task.held_out
    if not rows:
        return Piece()
    found = None
    for variant in asked:
        seed = await pieces.question(variant, rows, seed=True)
        both = seed.either(await pieces.question(variant, rows) + seed)  # the seed prompt may be the best
        found = both if found is None else found.either(both)
    assert found is not None
    differing = len({pieces.run.task.question.fill(row) for row in rows})
    return found.times(differing if sampled(pieces.run) else 0, len(rows))  # else some may have been asked before


def _path(run: Breeding, parts: Mapping[str, Piece], answer: Piece, complete: int) -> Figure:
    """Calls of the run that follow one another."""
    settings, mutation = run.settings, parts["mutations"].path
    generations = settings.generations - max(0, complete - 1)
    begins = 0 if complete else 1
    apart = max(mutation[1], answer.path[1]) if settings.speculate else mutation[1] + answer.path[1]
    most = begins * (parts["founders"].path[1] + answer.path[1]) + generations * apart + parts["held-out rows"].path[1]
    least = begins * (parts["founders"].path[0] + answer.path[0])
    if sampled(run):
        least += generations * answer.path[0]
    return Figure(least, most, "formula")


# What it comes to


async def _told(pieces: Pieces, parts: Mapping[str, Piece], path: Figure, begun: Begun, ways: Ways) -> EvolutionPlan:
    all_ = Piece()
    for part in parts.values():
        all_ = all_ + part
    measured = None if ways.pilot is None else await _pilot(pieces, ways.pilot)
    # What the pilot has asked the run may ask again, and then has from the cache.
    known = begun.draws, begun.draws + (measured.report.calls if measured is not None else 0)
    models = []
    for name, base in pieces.bases.items():
        plan = _model(name, all_.of(name), known, sole=len(pieces.bases) == 1)
        if (prompts := base.backend.capabilities.max_batch) > 1:  # whatever is ready leaves together
            wires = plan.wire_requests
            plan = structs.replace(plan, wire_requests=structs.replace(wires, least=math.ceil(wires.least / prompts)))
        if measured is not None:
            plan = _narrowed(plan, measured)
        models.append(priced(plan, base, ways.prices))
    calls = _less(total(model.calls for model in models), 0 if len(models) == 1 else begun.draws)
    steps = _steps(models, path, pieces.bases)
    seconds = assumed_seconds(models, steps, pieces.bases)
    if measured is not None:
        seconds = predicted_seconds(measured, calls, steps)
    dollars = [model.dollars for model in models if model.dollars is not None]
    figures = Plan(
        rows=len(pieces.run.task.rows),
        done=0,
        left=len(pieces.run.task.rows),
        followed=0,
        calls=calls,
        wire_requests=total(model.wire_requests for model in models),
        path=path,
        steps=steps,
        prompt_tokens=total(model.prompt_tokens for model in models),
        completion_tokens=total(model.completion_tokens for model in models),
        seconds=seconds and limited(seconds, models, pieces.bases),
        dollars=total(dollars) if len(dollars) == len(models) else None,
        models=tuple(models),
        kept=begun.draws,
        pilot=None if measured is None else measured.report,
        notes=tuple(_notes(pieces, models, ways, all_)),
    )
    told = {name: whole(Figure(*part.calls, _source(part.calls))) for name, part in parts.items()}
    return EvolutionPlan(told, figures)


def _source(ends: tuple[float, float]) -> Source:
    return "exact" if ends[0] == ends[1] else "formula"


def _model(name: str, asked: Asked, known: tuple[int, int], *, sole: bool) -> ModelPlan:
    """One model's part, less `known` draws, surely and perhaps. Of several models any may have had them."""

    def figure(ends: tuple[float, float], source: Source) -> Figure:
        least = ends[0] - known[1] * ends[0] / max(asked.calls[0], 1)
        most = ends[1] - (known[0] * ends[1] / max(asked.calls[1], 1) if sole else 0)
        return whole(Figure(max(0.0, least), max(0.0, most), source))

    calls = figure(asked.calls, _source(asked.calls))
    wires = figure(asked.wires, _source(asked.wires)).within(Figure(0, max(calls.most, 1), "exact"))
    return ModelPlan(
        name,
        calls,
        wires,
        figure(asked.prompt, "assumption"),
        figure(asked.completion, "assumption" if asked.unlimited else "formula"),
        kept=known[0] if sole else 0,
        tokenizer=asked.counted,
    )


def _less(figure: Figure, known: int) -> Figure:
    return Figure(figure.least, max(figure.least, figure.most - known), figure.source)


def _steps(models: list[ModelPlan], path: Figure, bases: Mapping[str, BaseModel]) -> Figure:
    """Rounds of requests: as many full ones as there must be, and some that wait for a generation's last."""
    full = [model.wire_requests.times(1 / bases[model.model].scheduler.max_in_flight) for model in models]
    least = max([path.least, *(math.ceil(one.least) for one in full)])
    return Figure(least, max(least, sum(math.ceil(one.most) for one in full) + path.most), "formula")


# A pilot


async def _pilot(pieces: Pieces, pilot: Pilot) -> Measured:
    """Questions put to the seed prompt for real, in the run's first variant; kept in the draw cache, if any."""
    run, rows = pieces.run, pieces.run.task.rows

    async def ask(row: Row) -> Completion:
        with registry.using(pieces.model):
            outcome = await attempt(seed_unit(run.task), run, run.settings.variants[0], row, ())
        if isinstance(outcome, ShoalError):
            raise outcome
        return Completion(outcome[1].text)

    chosen = rows_for(pilot, range(len(rows)))
    if len(chosen) < pilot.rows:
        raise UsageError(f"--pilot {pilot.rows}: there are {len(rows)} questions only")
    return await run_pilot(ask, rows, chosen, pieces.bases)


def _narrowed(plan: ModelPlan, measured: Measured) -> ModelPlan:
    """Replies as long as those to the seed prompt's questions."""
    calls = sum(measured.values("calls", plan.model))
    if not calls or not plan.calls.most:
        return plan
    values = measured.values("completion_tokens", plan.model)
    rest = max(1, round(plan.calls.most / (calls / len(values))))
    low, high = predicted(values, rest)
    share = plan.calls.least / plan.calls.most
    tokens = whole(Figure(max(0.0, low) * share, high, "pilot")).within(plan.completion_tokens)
    return structs.replace(plan, completion_tokens=tokens)


def _notes(pieces: Pieces, models: list[ModelPlan], ways: Ways, all_: Piece) -> list[str]:
    run = pieces.run
    notes = ["prompts are taken to be from a few characters to as long as their writers' max_tokens"]
    if not sampled(run):
        settings = run.settings
        new = settings.population_size + settings.generations * (settings.population_size // 2)
        notes.append(
            "answers are not sampled: units with the same prompts ask a question once; where all prompts of a whole "
            f"run differ, units ask {new * run.batch:,} questions at the least"
        )
    if any(one.unlimited for one in all_.models.values()):
        notes.append(f"a reply without a limit of its own is taken to have up to {USUAL_COMPLETION} tokens")
    if any(not model.tokenizer for model in models):
        notes.append("prompt tokens are estimated at four characters each")
    if ways.pilot is not None:
        notes.append("replies are taken to be as long as those to the seed prompt")
    quotes = [quote(base, ways.prices) for base in pieces.bases.values()]
    return [*notes, *(one.reason for one in quotes if isinstance(one, NoPrice))]
