"""Scores are 1.0 or 0.0; the short answer is used where there is one, else what the output states."""

import pytest
from tests.scripting import run

from shoal.evaluation.scorers import SCORERS

SCORED = [
    # scorer, output, short answer, target, score
    ("exact", "The capital of France is Paris.", None, "Paris", 1.0),
    ("exact", "It is Lyon.", "Paris", "paris", 1.0),
    ("exact", "The answer is the Eiffel Tower.", None, "Eiffel Tower", 1.0),
    ("exact", "The answer is Lyon.", None, "Paris", 0.0),
    ("exact", "The answer is $1,234.50.", None, 1234.5, 1.0),
    ("exact", "So \\boxed{42}.", None, "We add.\n#### 42", 1.0),
    ("exact", "<think>Paris", None, "Paris", 0.0),
    ("exact", "Answer: yes", None, True, 1.0),
    ("exact", "Answer: False", None, False, 1.0),
    ("exact", "Answer: yes", None, False, 0.0),
    ("exact", "Answer: 1", None, True, 0.0),
    ("exact", "The answer is Paris.", None, None, 0.0),
    ("exact", "", None, "", 0.0),
    ("number", "so she has 60", None, 60, 1.0),
    ("number", "The answer is 60.0 dollars.", None, "60", 1.0),
    ("number", "so she has 60", "50", 60, 0.0),
    ("number", "long text", "$1,000", "3 * 4 = 12\n#### 1,000", 1.0),
    ("number", "The answer is 1/2.", None, 0.5, 1.0),
    ("number", "The answer is -5.", None, 5, 0.0),
    ("number", "no idea", None, 5, 0.0),
    ("number", "no idea", None, "no idea", 0.0),
    ("number", "5", None, None, 0.0),
    ("choice", "I pick (B).", None, "B", 1.0),
    ("choice", "The answer is B) Paris", None, "(b)", 1.0),
    ("choice", "The answer is C.", None, 2, 1.0),
    ("choice", "The answer is C.", None, "A", 0.0),
    ("choice", "A dog.", None, "A", 0.0),
    ("choice", "whatever", "d", "D", 1.0),
]


@pytest.mark.parametrize(("scorer", "output", "answer", "target", "score"), SCORED)
def test_scorers(scorer: str, output: str, answer: str | None, target: object, score: float) -> None:
    assert run(SCORERS[scorer].rate(output, answer, target, {})) == score
