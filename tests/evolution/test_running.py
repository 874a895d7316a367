"""`breed`: what it keeps, what it says in the end, how it is stopped and goes on."""

import asyncio
import json
import random
import re
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.evolution.breeding import ROWS, Decoders, by_letters, ones, task
from tests.scripting import run, scripted

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import BadRequest, BudgetExceeded, CorruptStore, EngineError, RunError, StoreLocked, UsageError
from shoal.evaluation.scorers import open_scorer
from shoal.evolution import Evolution, Progress, Result, Settings, Task, breed
from shoal.evolution.folder import RunFolder, new_run
from shoal.evolution.generation import Generation
from shoal.evolution.held_out import split
from shoal.evolution.statistics import GenerationStats, stats_of
from shoal.evolution.unit import Scored, Unit
from shoal.runtime.budget import Budget
from shoal.runtime.cache import DrawCache
from shoal.runtime.types import Request, Usage

GIVEN: dict[str, Any] = {
    "mutation_prompts": ["Change it:", "Make it better:"],
    "thinking_styles": ["Think.", "Be brief."],
    "embed": by_letters,
}
SAMPLED = Decoders(inducer={"temperature": 1.0}, evaluator={"temperature": 1.0})
TASK = task(seed_prompt="0000000000")
SMALL = Settings(population_size=6, generations=4, prompts_per_unit=1, batch=4)


def files(folder: Path) -> dict[str, Any]:
    """What a run has written, without times."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        value = json.loads(path.read_bytes())
        if path.name.endswith("_stats.json"):
            del value["seconds"]
        found[str(path.relative_to(folder))] = value
    return found


def bred(place: Path | None = None, script: Any = ones, settings: Settings = SMALL, **options: Any) -> Result:
    model, _ = scripted(script)
    given = options.pop("task", TASK)
    return breed(given, model=model, settings=settings, run_dir=place, **{**GIVEN, **options})


def asks(request: Request) -> bool:
    """Whether it is a question, not a prompt to be written."""
    return re.search(r"Say \d+\.", request.text) is not None


class Asked:
    """A script that remembers every draw it was asked, and lets others pass it by a random number of turns."""

    def __init__(self, seed: int = 0) -> None:
        self.draws: Counter[Request] = Counter()
        self._chance = random.Random(seed)

    async def __call__(self, request: Request) -> str:
        self.draws[request] += 1
        for _ in range(self._chance.randrange(12)):
            await asyncio.sleep(0)
        return ones(request)


# What is kept


def test_a_run_writes_its_folder(tmp_path: Path) -> None:
    result = bred(new_run(tmp_path))
    place = tmp_path / "RUN_0"
    assert result.run_dir == place
    assert len(result.history) == len(result.stats) == 5
    assert result.ended == "generations"
    for number in range(5):
        population = list((place / f"generation_{number}_population").glob("*.json"))
        assert {path.stem for path in population} == {one.unit.id for one in result.history[number].population}
        stats = json.loads((place / f"generation_{number}_stats.json").read_text())
        assert stats["mean"] == result.history[number].mean
        log = json.loads((place / f"generation_{number}_log.json").read_text())
        assert len(log["births"]) == (3 if number else 0)
    for name in ("generation_log", "elite_history"):
        assert len(json.loads((place / f"{name}.json").read_text())) == 5
    assert json.loads((place / "complete").read_text()) == {"ended": "generations", "generations": 4}
    assert not list(place.rglob("*.partial"))
    assert new_run(tmp_path).name == "RUN_1"


def test_what_the_users_cache_gives_is_told_from_what_is_paid(tmp_path: Path) -> None:
    backend = ScriptedBackend(ones)
    with closing(DrawCache(tmp_path / "cache.sqlite")) as cache:
        results = [breed(TASK, model=BaseModel(backend, cache=cache), settings=SMALL, **GIVEN) for _ in range(2)]
    paid, cached = results
    assert len(backend.requests) == paid.usage.calls == cached.usage.cached_calls
    assert cached.usage.calls == 0
    assert [one.calls for one in paid.stats] == [one.calls for one in cached.stats]
    assert paid.history == cached.history


def test_mutation_prompts_that_hypermutation_made_are_listed(tmp_path: Path) -> None:
    """They were lost once: the list was always empty."""

    def script(request: Request) -> str:
        hyper = "improve the following instruction" in request.text
        return f"Mutate {sum(request.sample)}!" if hyper else ones(request)

    settings = structs.replace(SMALL, operators={"first_order_hypermutation": 1.0})
    result = bred(tmp_path, script, settings)
    listed = json.loads((tmp_path / "new_mutation_prompts.json").read_text())
    used = [one.unit.mutation_prompt for generation in result.history for one in generation.population]
    assert listed == [prompt for prompt in dict.fromkeys(used) if prompt not in GIVEN["mutation_prompts"]]
    assert len(listed) > 1


def test_without_a_folder_nothing_is_left() -> None:
    assert bred().run_dir is None


def test_files_that_are_gone_or_changed_are_written_again(tmp_path: Path) -> None:
    bred(tmp_path)
    before = files(tmp_path)
    (tmp_path / "generation_2_stats.json").unlink()
    (tmp_path / "generation_1_population" / "1-9.json").write_text("{}")
    next((tmp_path / "generation_0_population").iterdir()).write_text('{"half of')
    (tmp_path / "generation_1_population" / "1-9.json").unlink()
    assert bred(tmp_path).ended == "generations"
    assert files(tmp_path) == before


# Going on


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("decoders", [Decoders(), SAMPLED])
def test_a_run_goes_on_from_any_generation_as_if_it_had_not_stopped(
    tmp_path: Path, speculate: bool, decoders: Decoders
) -> None:
    settings = structs.replace(SMALL, speculate=speculate)
    given = structs.replace(TASK, decoders=decoders)
    whole = Asked()
    bred(tmp_path / "whole", whole, settings, task=given)
    for stop in range(4):
        asked = Asked(stop + 1)
        bred(tmp_path / f"{stop}", asked, structs.replace(settings, generations=stop), task=given)
        bred(tmp_path / f"{stop}", asked, settings, task=given)
        assert files(tmp_path / f"{stop}") == files(tmp_path / "whole")
        assert not asked.draws - whole.draws or set(asked.draws.values()) == {1}


@pytest.mark.parametrize("speculate", [False, True])
def test_a_run_whose_budget_is_spent_again_and_again_repeats_no_call(tmp_path: Path, speculate: bool) -> None:
    settings = structs.replace(SMALL, speculate=speculate)
    whole, asked = Asked(), Asked(1)
    bred(tmp_path / "whole", whole, settings)
    for _ in range(100):
        try:
            result = bred(tmp_path / "parts", asked, settings, budget=Budget(calls=17))
        except BudgetExceeded:  # not even the founders are scored
            continue
        if result.ended == "generations":
            break
        assert result.ended == "budget"
        assert not (tmp_path / "parts" / "complete").exists()
    assert set(asked.draws.values()) == {1}
    assert asked.draws.keys() == whole.draws.keys()
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_calls_are_put_aside_for_held_out_rows_only_beside_what_the_founders_need(tmp_path: Path) -> None:
    """A run that could not even score its founders once kept calls back for comparing what there was not."""
    with pytest.raises(BudgetExceeded, match=r"of 12 calls is spent, before the first"):
        bred(tmp_path / "parts", budget=Budget(calls=12))
    result = bred(tmp_path / "parts", budget=Budget(calls=12))
    assert (result.ended, len(result.history) > 0) == ("budget", True)
    at_once = bred(budget=Budget(calls=30))
    assert (at_once.ended, at_once.usage.calls, at_once.comparison) == ("budget", 30, None)
    enough = bred(budget=Budget(calls=50))
    assert enough.ended == "budget"
    assert enough.comparison is not None


def test_the_same_seed_is_the_same_run_whatever_finishes_first(tmp_path: Path) -> None:
    """Fitness once went to units in the order in which replies came."""
    for seed in range(4):
        bred(tmp_path / f"{seed}", Asked(seed))
        assert files(tmp_path / f"{seed}") == files(tmp_path / "0")
    bred(tmp_path / "other", settings=structs.replace(SMALL, seed=7))
    assert files(tmp_path / "other") != files(tmp_path / "0")


def test_more_generations_may_be_asked_for_later(tmp_path: Path) -> None:
    bred(tmp_path / "whole")
    asked = Asked()
    bred(tmp_path / "parts", asked, structs.replace(SMALL, generations=1))
    bred(tmp_path / "parts", asked)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    with pytest.raises(RunError, match="holds a run with generations=4, now generations=2"):
        bred(tmp_path / "parts", settings=structs.replace(SMALL, generations=2))


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("settings.seed=42, now settings.seed=7", {"settings": structs.replace(SMALL, seed=7)}),
        ("task.name", {"task": structs.replace(TASK, name="other")}),
        (".digest=", {"task": structs.replace(TASK, rows=[*ROWS[:-1], {"question": "?", "answer": "!"}])}),
        ("mutation_prompts", {"mutation_prompts": ["Other:"]}),
        ("queries.initial", {"queries": {"initial": "{{ generate_text(name='task_prompt') }}"}}),
    ],
)
def test_another_run_is_refused_by_the_name_of_what_differs(
    tmp_path: Path, named: str, options: dict[str, Any]
) -> None:
    bred(tmp_path)
    before = files(tmp_path)
    with pytest.raises(RunError, match=re.escape(named)):
        bred(tmp_path, split=False) if not options else bred(tmp_path, **options)
    assert files(tmp_path) == before


def test_another_model_is_refused(tmp_path: Path) -> None:
    bred(tmp_path)
    model, _ = scripted(ones, name="other")
    with pytest.raises(RunError, match="holds a run with model="):
        breed(TASK, model=model, settings=SMALL, run_dir=tmp_path, **GIVEN)


def test_a_folder_is_one_processs(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}), pytest.raises(StoreLocked, match="in use by process"):
        RunFolder(tmp_path, {})


def test_damage_is_said_in_a_line(tmp_path: Path) -> None:
    bred(tmp_path)
    config = (tmp_path / "_config.json").read_bytes()
    (tmp_path / "_config.json").write_bytes(config[:100])
    with pytest.raises(CorruptStore, match=r"_config\.json: damaged"):
        bred(tmp_path)
    (tmp_path / "_config.json").unlink()
    with pytest.raises(CorruptStore, match=r"a journal without its _config\.json"):
        bred(tmp_path)
    (tmp_path / "_config.json").write_bytes(config)
    with sqlite3.connect(tmp_path / "journal.sqlite") as journal:
        journal.execute("DELETE FROM row WHERE number = 2")
    journal.close()
    with pytest.raises(CorruptStore, match="generation 2 is missing"):
        bred(tmp_path)


def test_a_journal_from_elsewhere_cannot_name_files(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {}) as folder:
        unit = Unit("../../elsewhere", ("x",), "y")
        generation = Generation(0, (Scored(unit, 1.0),))
        stats = stats_of(generation, Usage(), variety=None, batch=1, seconds=0.0)
        run(folder.keep(generation, stats))
    with pytest.raises(CorruptStore, match="a unit named"):
        RunFolder(tmp_path / "run", {})


# Ends


def test_a_run_ends_where_it_does_not_get_better() -> None:
    result = bred(script=lambda request: "wrong", plateau=2)
    assert result.ended == "plateau"
    assert len(result.history) == 3
    with pytest.raises(UsageError, match="plateau=0"):
        bred(plateau=0)


def test_a_run_ends_where_its_target_is_reached(tmp_path: Path) -> None:
    settings = structs.replace(SMALL, generations=60)
    result = bred(tmp_path, settings=settings, target=0.5)
    assert result.ended == "target"
    assert result.best.fitness >= 0.5
    assert all(generation.best.fitness < 0.5 for generation in result.history[:-1])
    again = Asked()
    assert bred(tmp_path, again, settings, target=0.5).history == result.history
    assert not again.draws


def test_an_interrupted_run_lets_calls_under_way_finish_and_keeps_them(tmp_path: Path) -> None:
    asked = Asked()

    async def interrupted() -> Result:
        model, _ = scripted(asked)
        evolution = Evolution(TASK, model, SMALL, run_dir=tmp_path, on_progress=lambda now: stop(now), **GIVEN)

        def stop(now: Progress) -> None:
            if now.generation == 2 and now.scored:
                evolution.interrupt()

        return await evolution.execute()

    result = run(interrupted())
    assert result.ended == "interrupted"
    assert [one.number for one in result.history] in ([0, 1], [0, 1, 2])  # 2: where all of it was under way
    assert result.comparison is None
    bred(tmp_path, asked)
    bred(tmp_path.with_name("whole"))
    assert set(asked.draws.values()) == {1}
    assert files(tmp_path) == files(tmp_path.with_name("whole"))


# The comparison with the seed prompt


def test_no_held_out_row_is_seen_before_the_end() -> None:
    held_out = [{"question": f"Say {i}.", "answer": str(i)} for i in range(100, 110)]
    seen: list[str] = []
    phases: list[int] = []

    def script(request: Request) -> str:
        seen.append(request.text)
        return ones(request)

    def done(generation: Generation, _: GenerationStats) -> None:
        phases.append(len(seen))

    result = bred(script=script, task=structs.replace(TASK, held_out=held_out), on_generation=done)
    assert result.comparison is not None
    assert result.comparison.rows == 10
    assert not any(re.search(r"Say 10\d", text) for text in seen[: phases[-1]])
    assert sum(bool(re.search(r"Say 10\d", text)) for text in seen[phases[-1] :]) == len(seen[phases[-1] :]) == 20


def test_half_of_the_rows_are_held_out_where_the_task_holds_none_out() -> None:
    asked: dict[str, set[str]] = {"fit": set(), "end": set()}
    part = "fit"

    def script(request: Request) -> str:
        if match := re.search(r"Say \d+\.", request.text):
            asked[part].add(match[0])
        return ones(request)

    def last(generation: Generation, _: GenerationStats) -> None:
        nonlocal part
        if generation.number == 1:
            part = "end"

    settings = structs.replace(SMALL, generations=1, batch=None)
    assert bred(script=script, settings=settings, on_generation=last).comparison is not None
    assert len(asked["fit"]) == len(asked["end"]) == 10
    assert not asked["fit"] & asked["end"]
    assert bred(settings=settings, split=False).comparison is None


@pytest.mark.parametrize(
    ("right", "improves", "said"),
    [("always", False, "is not shown to improve on"), ("bred", True, "improves on"), ("seed", False, "is worse than")],
)
def test_it_improves_only_if_the_interval_is_above_0(right: str, improves: bool, said: str) -> None:
    def script(request: Request) -> str:
        asked = re.search(r"Say (\d+)\.", request.text)
        if asked is None:
            return "a bred prompt"
        seed = "the seed" in request.text
        return asked[1] if right == "always" or (right == "seed") == seed else "wrong"

    rows = [{"question": f"Say {i}.", "answer": str(i)} for i in range(40)]
    result = bred(script=script, task=task(rows=rows, seed_prompt="the seed"))
    assert result.comparison is not None
    assert result.comparison.improves is improves
    assert said in result.comparison.verdict
    assert (result.comparison.low > 0) is improves


# Failures


def test_a_failed_call_neither_ends_the_run_nor_counts_as_wrong() -> None:
    def script(request: Request) -> str:
        if re.search(r"Say [13]\.", request.text):
            raise BadRequest("too long")
        found = re.search(r"Say (\d+)\.", request.text)
        return found[1] if found else "Answer."

    result = bred(script=script, split=False, settings=structs.replace(SMALL, batch=20))
    assert all(one.fitness == 1.0 and one.failed == 2 for one in result.history[-1].population)
    assert [stats.failed for stats in result.stats] == [12] * 5
    assert [stats.questions for stats in result.stats] == [120] * 5


def test_a_failed_mutation_leaves_the_loser_where_it_is() -> None:
    """None instead of a unit once ended the run."""
    founders = 6

    def script(request: Request) -> str:
        if asks(request):
            return ones(request)
        if request.sample[0] > 0 and sum(request.sample) % 2:
            raise BadRequest("refused")
        return ones(request)

    result = bred(script=script)
    births = [birth for generation in result.history for birth in generation.births]
    failed = [birth for birth in births if birth.child is None]
    assert 0 < len(failed) < len(births)
    assert all(str(birth.failure).startswith("BadRequest: refused") for birth in failed)
    for before, after in zip(result.history, result.history[1:], strict=False):
        assert len(after.population) == founders
        for birth in after.births:
            if birth.child is None:
                assert after.population[birth.slot].unit == before.population[birth.slot].unit
    assert sum(stats.failed for one in result.stats for stats in one.operators.values()) == len(failed)


def test_what_fails_for_all_is_raised_as_it_is() -> None:
    def nothing(request: Request) -> str:
        raise EngineError("out of order")

    def no_answers(request: Request) -> str:
        if asks(request):
            raise BadRequest("no")
        return "Answer."

    def no_mutations(request: Request) -> str:
        if not asks(request) and request.sample[0] > 0:
            raise BadRequest("never again")
        return ones(request) if asks(request) else "0000000000"

    with pytest.raises(EngineError, match="out of order"):
        bred(script=nothing)
    with pytest.raises(BadRequest, match="no"):
        bred(script=no_answers)
    with pytest.raises(BadRequest, match="never again"):
        bred(script=no_mutations)


def test_a_unit_that_no_question_can_be_put_to_loses() -> None:
    def script(request: Request) -> str:
        if not asks(request):
            return "too long" if request.sample == (0, 0, 0) else "0000000001"
        if "too long" in request.text:
            raise BadRequest("does not fit")
        return ones(request)

    result = bred(script=script)
    first = result.history[0].population[0]
    assert (first.fitness, first.questions, first.failed) == (0.0, 0, 4)
    assert result.ended == "generations"


# Progress and statistics


def test_progress_and_statistics_add_up() -> None:
    seen: list[Progress] = []
    asked = Asked()
    result = bred(script=asked, on_progress=lambda now: seen.append(structs.replace(now)), task=TASK)
    assert seen[-1].phase == "comparing"
    assert seen[-1].generation == 5
    assert [now.generation for now in seen] == sorted(now.generation for now in seen)
    assert seen[-1].ever == result.best.fitness == max(stats.best for stats in result.stats)
    tried = [stats.tried for one in result.stats for stats in one.operators.values()]
    assert sum(tried) == 4 * 3
    assert sum(stats.tried for stats in seen[-1].operators.values()) == 4 * 3
    assert result.usage.calls == len(asked.draws)
    assert sum(one.calls for one in result.stats) + 20 == len(asked.draws)
    better = sum(stats.better for one in result.stats for stats in one.operators.values())
    fitter = 0
    for before, after in pairwise(result.history):
        known = {one.unit.id: one.fitness for one in before.population}
        fitter += sum(after.population[birth.slot].fitness > known[birth.parent] for birth in after.births)
    assert better == fitter > 0
    assert seen[0].left is not None
    assert seen[0].left > 0
    assert seen[-1].left == 0.0


def test_variants_are_each_tried_and_the_best_counts() -> None:
    def script(request: Request) -> str:
        found = re.search(r"Say (\d+)\.", request.text)
        if found is None:
            return "Answer."
        return found[1] if "step by step" in request.text else "wrong"

    fitness = (
        "{{ question }} {{ task_prompts[0] }}{% if variant == 'CoT' %} step by step{% endif %}"
        "{{ generate_text(name='answer') }}"
    )
    settings = structs.replace(SMALL, variants=("noCoT", "CoT"))
    result = bred(script=script, settings=settings, queries={"fitness": fitness})
    assert result.best.variants == {"noCoT": 0.0, "CoT": 1.0}
    assert result.stats[0].variants == {"noCoT": 0.0, "CoT": 1.0}
    assert result.comparison is not None
    assert result.comparison.variant == "CoT"


def test_rows_that_ask_the_same_are_on_the_same_side() -> None:
    """A suite with doublets would be held out from what it is bred on only in part."""
    rows = [{"question": f"What is {i % 10}?", "answer": i % 10} for i in range(30)]
    halves = split(Task("t", "Say it.", rows, "answer", open_scorer("number")), 1)
    fit, held_out = ({row["question"] for row in side} for side in (halves.rows, halves.held_out))
    assert not fit & held_out
    assert (len(halves.rows), len(halves.held_out)) == (15, 15)


def test_held_out_rows_that_are_bred_on_are_refused() -> None:
    rows = [{"question": f"What is {i}?", "answer": i} for i in range(8)]
    task = Task("t", "Say it.", rows[:6], "answer", open_scorer("number"), held_out=rows[4:])
    with pytest.raises(UsageError, match="2 of 4 held-out rows are among those that prompts are bred on"):
        breed(task, model=scripted(lambda _: "1")[0])
