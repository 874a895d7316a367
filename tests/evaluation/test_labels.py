"""The scorer `label`: one of the labels that a row offers, named and not denied."""

import pytest
from tests.scripting import run

from shoal.errors import UsageError
from shoal.evaluation.scorers import open_scorer
from shoal.runtime.types import Completion

TWO = ["positive", "negative"]
SCORED = [
    ("Positive.", "positive", TWO, 1.0),
    ("The review is positive because the food is praised.", "positive", TWO, 1.0),
    ("This is positive, not negative.", "positive", TWO, 1.0),
    ("The review is positive, as there's nothing negative about it.", "positive", TWO, 1.0),
    ("positive or negative", "positive", TWO, 0.0),
    ("It is neither positive nor negative.", "positive", TWO, 0.0),
    ("This is not positive.", "positive", TWO, 0.0),
    ("It isn't a positive review.", "positive", TWO, 0.0),
    ("non-positive", "positive", TWO, 0.0),
    ("No, positive.", "positive", TWO, 1.0),
    ("<think>It seems positive", "positive", TWO, 0.0),
    ("<think>negative?</think>It is positive, I would say.", "positive", TWO, 1.0),
    ("Very positive.", "very positive", ["very positive", "positive"], 1.0),
    ("Very positive.", "positive", ["very positive", "positive"], 0.0),
    ("No joy.", "no joy", ["joy", "no joy"], 1.0),
    ("No joy.", "joy", ["joy", "no joy"], 0.0),
    ("Not entailment", "not_entailment", ["entailment", "not_entailment"], 1.0),
    ("Not entailment", "entailment", ["entailment", "not_entailment"], 0.0),
    ("C++", "C++", ["C", "C++"], 1.0),
    ("C++", "C", ["C", "C++"], 0.0),
    ("I use C.", "C", ["C", "C++"], 1.0),
    ("STRASSE", "Straße", ["Straße", "Platz"], 1.0),
    ("Label: 1", 1, [0, 1], 1.0),
    ("", "positive", ["", "positive"], 0.0),
]


@pytest.mark.parametrize(("output", "target", "labels", "score"), SCORED)
def test_the_one_label_that_is_named_and_not_denied(
    output: str, target: object, labels: list[object], score: float
) -> None:
    row = {"options": labels}
    assert run(open_scorer("label").score(Completion(output), target, row))[1] == score


@pytest.mark.parametrize("labels", [None, "positive, negative", ["good"]])
def test_rows_without_their_labels_are_told_before_anything_is_asked(labels: object) -> None:
    rows = [{"id": 1, "kind": "positive", "options": TWO}, {"id": "r2", "kind": "positive", "options": labels}]
    with pytest.raises(UsageError, match="row 1, column 'kind': label: row 'r2' needs in the column 'options' a list"):
        open_scorer("label").check_rows(rows, "kind")
