"""Evolution as the paper has it, on scripted models: who survives and who is overwritten."""

from itertools import pairwise

from msgspec import structs
from tests.evolution.breeding import ROWS, bred, breeding, ones, task
from tests.scripting import scripted

from shoal.batch.rows import Row
from shoal.evaluation.scorers import open_scorer


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
