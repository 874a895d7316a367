"""Evolution as the paper has it, on scripted models: who survives and who is overwritten."""

import asyncio
import gc
import re
import zlib
from itertools import pairwise

import pytest
from msgspec import structs
from tests.evolution.breeding import ROWS, Decoders, bred, breeding, ones, task
from tests.scripting import run, scripted

from shoal.batch.rows import Row
from shoal.errors import AuthenticationFailed
from shoal.evaluation.scorers import open_scorer
from shoal.evolution.breeder import Breeder
from shoal.evolution.generation import Generation
from shoal.evolution.tournament import pairing
from shoal.runtime import registry
from shoal.runtime.types import Request

SAMPLED = Decoders(inducer={"temperature": 1.0}, evaluator={"temperature": 1.0})


def test_a_known_optimum_is_reached() -> None:
    model, _ = scripted(ones)
    history = bred(model, breeding(task(), population_size=10, generations=25, batch=None))
    assert history[0].best.fitness == 0.0
    assert history[-1].best.fitness == 1.0
    assert history[-1].best.unit.task_prompts == ("1111111111",)


def test_the_winner_survives_and_its_offspring_overwrites_the_loser() -> None:
    model, _ = scripted(ones)
    history = bred(model, breeding(task(), batch=None))
    for before, after in pairwise(history):
        assert len(after.population) == 8
        stayed = [slot for slot in range(8) if before.population[slot].unit == after.population[slot].unit]
        assert len(stayed) == 4
        for slot in set(range(8)) - set(stayed):
            child = after.population[slot].unit
            assert child.born == after.number
            assert child.parent in {before.population[other].unit.id for other in stayed}


def test_a_question_that_came_to_no_score_is_left_out() -> None:
    exact = open_scorer("exact")

    async def rate(output: str, answer: str | None, target: object, row: Row) -> float | None:
        return None if row["answer"] in ("3", "4") else await exact.rate(output, answer, target, row)

    model, _ = scripted(lambda _: "The answer is 7.")
    scorer = structs.replace(exact, rate=rate)
    first, *_ = bred(model, breeding(task(scorer, ROWS[:10]), generations=0, batch=None))
    assert (first.best.questions, first.best.fitness) == (8, 1 / 8)


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_the_population_stays_as_large_as_it_was(size: int, speculate: bool) -> None:
    """An odd one was an IndexError once: who has no partner goes on as it is."""
    model, _ = scripted(ones)
    settings = {"population_size": size, "batch": 3, "speculate": speculate}
    history = bred(model, breeding(task(), **settings))
    assert [len(generation.population) for generation in history] == [size] * 6
    for before, after in pairwise(history):
        assert len(after.births) == size // 2
        overwritten = {birth.slot for birth in after.births}
        for slot in set(range(size)) - overwritten:
            assert after.population[slot].unit == before.population[slot].unit


def test_every_unit_is_scored_in_its_own_generation_the_last_ones_newborns_too() -> None:
    model, backend = scripted(ones)
    *_, last = bred(model, breeding(task(decoders=SAMPLED), batch=4))
    newborns = [scored for scored in last.population if scored.unit.born == last.number]
    assert len(newborns) == 4
    assert all(scored.questions == 4 and scored.evaluated == last.number for scored in last.population)
    for slot in range(8):  # winners on questions drawn anew
        assert sum(request.sample == (last.number, slot) for request in backend.requests) == 4


def test_where_every_question_is_asked_a_unit_is_scored_once() -> None:
    model, backend = scripted(ones)
    history = bred(model, breeding(task(decoders=SAMPLED), batch=None))
    scored = {request.sample for request in backend.requests if len(request.sample) == 2}
    assert len(scored) == 8 + 5 * 4
    for before, after in pairwise(history):
        for old, new in zip(before.population, after.population, strict=True):
            assert new is old or new.evaluated == after.number


def test_of_two_as_fit_the_one_in_the_lower_slot_wins() -> None:
    model, _ = scripted(lambda _: "the same")
    history = bred(model, breeding(task(), batch=3))
    for before, after in pairwise(history):
        partners = pairing(42, after.number, 8)
        assert {birth.slot for birth in after.births} == {max(pair) for pair in partners.items()}
        for birth in after.births:
            assert birth.parent == before.population[partners[birth.slot]].unit.id


def test_offspring_are_of_the_winner_as_it_is() -> None:
    """Not of the loser, changed in place."""
    model, backend = scripted(ones)
    history = bred(model, breeding(task(), batch=None, operators={"first_order_direct": 1.0}, crossover=0.0))
    for before, after in pairwise(history):
        known = {scored.unit.id: scored.unit for scored in before.population}
        for birth in after.births:
            draw = (after.number, birth.slot, 0)
            asked = next(request.text for request in backend.requests if request.sample == draw)
            assert known[birth.parent].task_prompts[0] in asked
            assert after.population[birth.slot].unit.mutation_prompt == known[birth.parent].mutation_prompt


def test_elites_are_the_fittest_of_each_generation() -> None:
    """The list once had whoever came last."""
    model, backend = scripted(ones)
    history = bred(model, breeding(task(), batch=None, operators={"lineage": 1.0}, generations=6))
    mutations = [request for request in backend.requests if len(request.sample) == 3 and request.sample[0] > 0]
    seen = [(request.sample[0], re.findall(r"[01]{10}", request.text)) for request in mutations]
    assert len(seen) == 6 * 4
    for number, listed in seen:
        elites = {generation.best.unit.id: generation.best.unit for generation in history[:number]}
        assert listed == [unit.task_prompts[0] for unit in elites.values()]


def test_chance_does_not_depend_on_what_was_drawn_before() -> None:
    """The seed was once set after the first population had been drawn."""
    first, second = (bred(scripted(ones)[0], breeding(task(), generations=0)) for _ in range(2))
    assert first == second
    other = bred(scripted(ones)[0], breeding(task(), generations=0, seed=1))
    assert [one.unit.temperature for one in first[0].population] != [
        one.unit.temperature for one in other[0].population
    ]


def test_a_pair_does_not_wait_for_other_pairs() -> None:
    """While one unit's answers are held back, others go through their tournaments."""
    held = asyncio.Event()
    mutated: list[tuple[int, ...]] = []
    slots = set(range(8)) - {0, pairing(42, 1, 8)[0]}

    async def script(request: Request) -> str:
        if len(request.sample) == 3 and request.sample[0] == 1:
            mutated.append(request.sample)
            if len(mutated) == 3:
                held.set()
        if request.sample == (0, 0):
            await held.wait()
        return ones(request)

    settings = {"operators": {"first_order_direct": 1.0}, "crossover": 0.0, "generations": 1}
    history = bred(scripted(script)[0], breeding(task(decoders=SAMPLED), **settings))
    assert len(history) == 2
    assert {sample[1] for sample in mutated[:3]} <= slots


@pytest.mark.parametrize("speculate", [False, True])
def test_speculation_reads_the_state_one_generation_earlier(speculate: bool) -> None:
    model, backend = scripted(ones)
    settings = {"operators": {"lineage": 1.0}, "batch": None, "crossover": 0.0, "speculate": speculate}
    history = bred(model, breeding(task(), **settings))
    for request in backend.requests:
        if len(request.sample) == 3 and request.sample[0] > 1:
            seen = history[: request.sample[0] - speculate]
            elites = {generation.best.unit.id: generation.best.unit for generation in seen}
            assert re.findall(r"[01]{10}", request.text) == [unit.task_prompts[0] for unit in elites.values()]


def test_a_working_that_is_far_too_long_is_not_kept_with_units() -> None:
    """A model that does not mind its length would fill memory and disk, each generation anew."""

    def wordy(request: Request) -> str:
        asked = re.search(r"Say (\d+)\.", request.text)
        if asked is None:
            return "a prompt"
        return asked[1] + (" " * 100_000 + "." if int(asked[1]) % 2 else " .")

    model, _ = scripted(wordy)
    run = breeding(task(open_scorer("contains")), population_size=4, generations=1, batch=20)
    for generation in bred(model, run):
        for scored in generation.population:
            assert scored.fitness == 1.0
            assert {working.question for working in scored.workings} == {f"Say {i}." for i in range(0, 20, 2)}


def test_a_reply_that_is_no_text_does_not_end_the_run() -> None:
    def broken(request: Request) -> str:
        asked = re.search(r"Say (\d+)\.", request.text)
        number = zlib.crc32(repr(request).encode())
        return "\ud800" if number % 4 == 0 else asked[1] if asked else f"prompt {number % 10}"

    model, _ = scripted(broken)
    history = bred(model, breeding(task(), generations=3))
    assert len(history) == 4
    assert any(scored.failed for scored in history[0].population)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_ends_a_run_as_a_generation_begins_leaves_nothing_unstarted(turns: int) -> None:
    complete = asyncio.Event()
    asked = 0

    async def script(request: Request) -> str:
        nonlocal asked
        asked += 1
        if asked > 8 + 8 * 5:  # the second generation, under way while the first is kept
            await complete.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            raise AuthenticationFailed("the key is gone")
        return ones(request)

    async def kept(generation: Generation) -> None:
        complete.set()
        for _ in range(6):
            await asyncio.sleep(0)

    breeder = Breeder(breeding(task(decoders=SAMPLED)))
    breeder.on_generation = kept
    with registry.using(scripted(script)[0]), pytest.raises(AuthenticationFailed):
        run(breeder.execute())
    gc.collect()


@pytest.mark.parametrize("prompts", [1, 2])
def test_the_seed_prompt_may_be_one_of_the_founders(prompts: int) -> None:
    """The others, and all chance, are as they are without it."""
    toy = task(seed_prompt="1111100000")
    options = {"generations": 0, "prompts_per_unit": prompts}
    without, with_it = (
        bred(scripted(ones)[0], breeding(toy, seed_founder=given, **options))[0].population for given in (False, True)
    )
    assert [one.unit.task_prompts[0] for one in with_it].count("1111100000") == 1
    assert with_it[0].unit.task_prompts == ("1111100000", *without[0].unit.task_prompts[1:])
    assert [one.unit for one in with_it[1:]] == [one.unit for one in without[1:]]
