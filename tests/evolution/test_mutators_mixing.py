"""Crossover and context shuffling, which act on every offspring, and how operators are drawn."""

from collections import Counter
from random import Random

import pytest
from scipy.stats import binomtest, chisquare
from tests.evolution.breeding import breeding, task
from tests.evolution.mutating import WORKINGS, Known, child_of, scored
from tests.scripting import run

from shoal.errors import UsageError
from shoal.evolution.births import operator
from shoal.evolution.embedding import shared
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.mutators.contexts import shuffled
from shoal.evolution.mutators.crossover import crossed
from shoal.evolution.settings import Settings
from shoal.evolution.surroundings import Surroundings
from shoal.evolution.unit import Unit, Working

PARENT = scored("P1", "P2", id="0-0", mutation_prompt="Mine:", fitness=0.9)
WEAK = scored("W1", "W2", id="0-1", mutation_prompt="Weak:", fitness=0.1)
FIT = scored("F1", "F2", id="0-2", mutation_prompt="Fit:", fitness=0.4)


def many(count: int, *others: object, **settings: object) -> list[Unit]:
    """So many offspring of `PARENT`, each with chance of its own."""
    known = Known([PARENT, *others])  # type: ignore[list-item]
    run_ = breeding(task(), **settings)
    child = child_of("first_order_direct", PARENT)[0]

    async def all_() -> list[Unit]:
        return [
            await crossed(child, Surroundings(run_, known, Random(seed), (1, 0), {}))  #
            for seed in range(count)
        ]

    return run(all_())


# Which operator


def drawn(count: int, **settings: object) -> Counter[str]:
    run_ = breeding(task(), **settings)
    return Counter(operator(run_, Surroundings(run_, Known(), Random(i), (1, 0), {})) for i in range(count))


def test_operators_are_drawn_alike() -> None:
    counts = drawn(4000)
    assert set(counts) == set(MUTATORS)
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_operators_are_drawn_by_their_weights() -> None:
    counts = drawn(3000, operators={"lamarckian": 2, "first_order_direct": 1, "lineage": 0})
    assert set(counts) == {"lamarckian", "first_order_direct"}
    observed = [counts["lamarckian"], counts["first_order_direct"]]
    assert chisquare(observed, [2000, 1000]).pvalue > 0.001


# Crossover


def test_one_offspring_in_ten_is_crossed() -> None:
    children = many(3000, WEAK, FIT)
    count = sum(child.crossed is not None for child in children)
    assert binomtest(count, 3000, 0.1).pvalue > 0.001
    assert all(child.task_prompts == ("new", "new") for child in children if child.crossed is None)
    assert not any(child.crossed for child in many(300, WEAK, FIT, crossover=0.0))


def test_crossover_takes_one_task_prompt_and_never_the_mutation_prompt() -> None:
    children = many(400, WEAK, FIT, crossover=1.0)
    for child in children:
        assert sorted(child.task_prompts, key=len)[1] == "new"
        assert child.mutation_prompt == "Mine:"
    places = {
        (child.task_prompts.index("new"), next(p for p in child.task_prompts if p != "new")) for child in children
    }
    assert places == {(kept, prompt) for kept in (0, 1) for prompt in ("W1", "W2", "F1", "F2")}


def test_the_donor_is_another_unit_chosen_by_fitness() -> None:
    donors = Counter(child.crossed for child in many(2000, WEAK, FIT, crossover=1.0))
    assert set(donors) == {"0-1", "0-2"}  # never the parent, the fittest
    assert chisquare([donors["0-1"], donors["0-2"]], [400, 1600]).pvalue > 0.001


def test_where_none_is_fit_all_donors_are_alike() -> None:
    unfit = [scored("W1", id="0-1", fitness=0.0), scored("F1", id="0-2", fitness=0.0)]
    donors = Counter(child.crossed for child in many(2000, *unfit, crossover=1.0))
    assert chisquare(list(donors.values())).pvalue > 0.001
    assert len(donors) == 2


def test_with_no_other_unit_known_the_child_stays_as_it_is() -> None:
    assert {(child.task_prompts, child.crossed) for child in many(50, crossover=1.0)} == {(("new", "new"), None)}


def test_who_is_not_crossed_does_not_wait_for_the_generation() -> None:
    known = Known([PARENT, FIT])
    child_of("first_order_direct", PARENT, known=known, crossover=0.0)
    assert not known.asked
    child_of("first_order_direct", PARENT, known=known, crossover=1.0)
    assert known.asked


# Contexts


def after(contexts: tuple[Working, ...], workings: tuple[Working, ...], seed: int = 0, **settings: object) -> Unit:
    given = Settings(**{"few_shot": 2, "context_resampling": 0.0, **settings})  # type: ignore[arg-type]
    return shuffled(scored("P", contexts=contexts, workings=workings), given, Random(seed))


def test_one_working_is_added_until_the_list_is_full() -> None:
    contexts: tuple[Working, ...] = ()
    for length in (1, 2, 2, 2):
        new = after(contexts, WORKINGS).contexts
        assert len(new) == length
        assert len({working.question for working in new}) == length
        assert len(set(new) - set(contexts)) == 1  # one is new each time
        contexts = new


def test_in_a_full_list_a_random_one_is_replaced() -> None:
    replaced = Counter()  # type: ignore[var-annotated]
    new = Counter()  # type: ignore[var-annotated]
    for seed in range(600):
        contexts = after(WORKINGS[:2], WORKINGS, seed).contexts
        replaced[next(i for i in (0, 1) if contexts[i] != WORKINGS[i])] += 1
        new[next(iter(set(contexts) - set(WORKINGS[:2])))] += 1
    assert chisquare(list(replaced.values())).pvalue > 0.001
    assert chisquare(list(new.values())).pvalue > 0.001
    assert set(new) == set(WORKINGS[2:])


def test_the_whole_list_is_drawn_anew_by_the_chance_over_its_length() -> None:
    workings = tuple(Working(f"{i}?", f"{i}") for i in range(100))
    full = workings[:4]
    anew = sum(
        len(set(after(full, workings, seed, few_shot=4, context_resampling=0.4).contexts) - set(full)) > 1
        for seed in range(2000)
    )
    assert binomtest(anew, 2000, 0.1).pvalue > 0.001
    assert len(after(full, workings[50:52], few_shot=4, context_resampling=1.0, seed=4).contexts) == 4


@pytest.mark.parametrize("contexts", [(), WORKINGS[:1], WORKINGS[:2]])
def test_without_a_working_that_is_new_the_list_stays(contexts: tuple[Working, ...]) -> None:
    assert after(contexts, ()).contexts == contexts
    assert after(contexts, contexts).contexts == contexts
    assert after((), WORKINGS, few_shot=0).contexts == ()


def test_offspring_inherit_contexts_that_were_shuffled() -> None:
    parent = scored("P", contexts=WORKINGS[:1], workings=WORKINGS[1:])
    child, _ = child_of("first_order_direct", parent, few_shot=2)
    assert len(child.contexts) == 2
    assert child.contexts[0] == WORKINGS[0]
    assert child.contexts[1] in WORKINGS[1:]
    child, _ = child_of("first_order_direct", scored("P", workings=WORKINGS))
    assert child.contexts == ()


# Fitness sharing


def test_fitness_is_shared_among_those_that_are_alike() -> None:
    vectors = {"A": [1.0, 0.0], "B": [0.0, 1.0], "C": [1.0, 1.0], "D": [-1.0, 0.0]}

    async def fixed(texts: list[str]) -> list[list[float]]:
        return [vectors[text] for text in texts]

    def fitness(of: str, *others: str) -> float:
        units = [scored(name, id=f"0-{i}", fitness=0.6) for i, name in enumerate((of, *others))]
        return run(shared(units[0], units, fixed)).fitness  # type: ignore[arg-type]

    assert fitness("A", "B") == 0.6
    assert fitness("A", "D") == 0.6  # opposites are not less than nothing alike
    assert fitness("A", "A") == 0.3
    assert fitness("A", "C") == pytest.approx(0.6 / (1 + 0.5**0.5))


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_eda_samples": 0},
        {"num_lamarckian_reasonings": -1},
        {"context_resampling": 1.5},
        {"crossover": -0.1},
        {"temperature": (2.0, 1.0)},
        {"temperature_step": -0.1},
        {"few_shot": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).removesuffix("_step")):
        Settings(**wrong)  # type: ignore[arg-type]
