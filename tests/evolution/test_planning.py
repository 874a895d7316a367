"""The calls a run makes are those that were planned, one after another and in all."""

from typing import Any

import pytest
from tests.evolution.breeding import ROWS, bred, breeding, ones, task
from tests.scripting import scripted

from shoal.evolution.planning import critical_path, mutation_steps, plan_calls
from shoal.evolution.settings import Settings
from shoal.evolution.task import Decoders, Task

# All calls alike but for their text: they may then share a wave.
ALIKE = {"temperature": 1.0}
SAMPLED = Decoders(redescriber=ALIKE, inducer=ALIKE, evaluator=ALIKE)
PLAIN = {"first_order_direct": 1.0}
HYPER = {"first_order_hypermutation": 1.0, "zero_order_hypermutation": 1.0}


def asked(given: Task, **settings: Any) -> tuple[list[int], Settings]:
    """The waves of a run, and its settings."""
    model, backend = scripted(ones, waves=True)
    run = breeding(given, **settings)
    bred(model, run)
    return backend.batches, run.settings


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("operators", [PLAIN, HYPER])
@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("batch", [5, None])
def test_a_run_makes_the_calls_planned_in_the_waves_planned(
    speculate: bool, prompts: int, operators: dict[str, float], size: int, batch: int | None
) -> None:
    given = task(decoders=SAMPLED)
    options = {"speculate": speculate, "prompts_per_unit": prompts, "operators": operators}
    waves, settings = asked(given, population_size=size, generations=4, batch=batch, **options)
    plan = plan_calls(given, settings)
    assert sum(waves) == plan.expected == plan.most
    assert plan.critical_path == critical_path(settings, prompts)
    if speculate and mutation_steps(settings) > prompts:  # a unit that stays waits for no mutant of its own
        assert plan.critical_path - 1 <= len(waves) <= plan.critical_path
    else:
        assert len(waves) == plan.critical_path


def test_operators_drawn_at_random_stay_below_the_most_and_near_what_is_expected() -> None:
    given = task(decoders=SAMPLED)
    waves, settings = asked(given, population_size=30, generations=20, prompts_per_unit=2, batch=1)
    plan = plan_calls(given, settings)
    assert plan.founders + plan.fitness < sum(waves) < plan.most
    mutations = sum(waves) - plan.founders - plan.fitness
    assert mutations == pytest.approx(plan.mutations, rel=0.1)
    assert len(waves) <= plan.critical_path


def test_equal_questions_are_asked_once_where_nothing_is_sampled() -> None:
    waves, settings = asked(task(), population_size=6, generations=4, batch=5)
    assert sum(waves) < plan_calls(task(), settings).expected


# Published numbers, as checks of the formulas.

_MANY = [{"question": f"Say {i}.", "answer": f"{i}"} for i in range(150)]


@pytest.mark.parametrize(
    ("steps", "speculate", "paths"),
    [(1, False, (62, 77, 92, 122)), (2, False, (83, 103, 123, 163)), (2, True, (43, 53, 63, 83))],
)
def test_the_critical_path_of_the_papers_settings(steps: int, speculate: bool, paths: tuple[int, ...]) -> None:
    found = (critical_path(Settings(generations=g, speculate=speculate), steps) for g in (20, 25, 30, 40))
    assert tuple(found) == paths


def test_the_papers_settings() -> None:
    plan = plan_calls(task(rows=_MANY), Settings(generations=20))
    assert plan.founders == 100
    assert plan.fitness == 21 * 10_000  # the founders' evaluation, and one a generation
    assert plan.mutations == 20 * 25 * (6 * 2 + 2 * 3) / 8
    assert plan.most_mutations == 20 * 25 * 3


def test_a_suite_asked_once_in_a_units_life() -> None:
    """Day Care's count for 6 genomes and 3 rounds, of which the last one's newborns were never tried: 6 + 1,800 + 9."""
    one_step = {"zero_order_direct": 1.0, "first_order_direct": 1.0}
    settings = Settings(population_size=6, generations=2, prompts_per_unit=1, batch=None, operators=one_step)
    plan = plan_calls(task(rows=_MANY), settings)
    assert (plan.founders, plan.fitness, plan.mutations + 3) == (6, 1800, 9)


def test_a_single_prompt_and_six_operators() -> None:
    """P + P*B + G(P*B + 7/6 * P/2): six operators, one of which makes two calls."""
    names = ("zero_order_direct", "first_order_direct", "lineage", "lamarckian", "rank_and_index")
    operators = dict.fromkeys([*names, "first_order_hypermutation"], 1.0)
    settings = Settings(population_size=50, generations=25, prompts_per_unit=1, batch=100, operators=operators)
    assert plan_calls(task(rows=_MANY), settings).expected == pytest.approx(130_779, abs=0.5)


def test_held_out_rows_are_answered_by_the_seed_and_the_best() -> None:
    plan = plan_calls(task(held_out=ROWS), Settings(prompts_per_unit=2, generations=0))
    assert plan.held_out == 20 * (1 + 2)
    assert plan.critical_path == 1 + 2 + 2
