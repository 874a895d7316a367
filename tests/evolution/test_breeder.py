"""Evolution as the paper has it, on scripted models: who survives and who is overwritten."""

from itertools import pairwise

from tests.evolution.breeding import bred, breeding, ones, task
from tests.scripting import scripted


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
