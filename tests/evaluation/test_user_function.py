"""A function of the user's as scorer: what it takes, what it may return, and what it is told."""

from pathlib import Path

import pytest
from tests.scripting import run

from shoal.errors import UsageError
from shoal.evaluation.scorers import open_scorer

FILE = """
from fractions import Fraction

import numpy

async def waiting(answer, target):
    return answer == target

def whole(output, answer, target, row, weight=0.5):
    return weight * (output == row["said"]) + weight * (answer == target)

def free(output):
    return True

def anything(**given):
    return len(given) / 4

def fails(row):
    return row["nothing"]

def text(output): return "yes"
def nothing(output): return None
def above(output): return 1.5
def nan(output): return float("nan")
def of_numpy(output): return numpy.float32(output == "It is 5.")
def truth_of_numpy(answer, target): return numpy.bool_(answer == target)
def share(output): return Fraction(2, 2)
def vector(output): return numpy.ones(3)
def unknown(ouput): return 1.0
def placed(output, /): return 1.0
"""


@pytest.fixture(autouse=True)
def file() -> None:
    Path("s.py").write_text(FILE)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("waiting", 1.0),
        ("whole", 1.0),
        ("free", 1.0),
        ("anything", 1.0),
        ("of_numpy", 1.0),
        ("truth_of_numpy", 1.0),
        ("share", 1.0),
    ],
)
def test_it_takes_what_it_names(name: str, score: float) -> None:
    scorer = open_scorer(f"s.py:{name}")
    value = run(scorer.rate("It is 5.", "5", "5", {"said": "It is 5."}))
    assert (value, type(value)) == (score, float)
    assert scorer.needs_target is (name not in ("free", "of_numpy", "share"))


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("fails", {"id": "r7"}, "scorer s.py:fails, row 'r7': KeyError: 'nothing'"),
        ("text", {"id": 7}, "row 7: ValueError: returned 'yes'; expected true, false or a number from 0 to 1"),
        ("nothing", {"q": "why"}, "the row {'q': 'why'}: ValueError: returned 'None'"),
        ("above", {}, "returned '1.5'"),
        ("vector", {}, "returned '[1. 1. 1.]'"),
        ("nan", {}, "returned 'nan'"),
    ],
)
def test_what_it_does_wrong_is_told_with_the_row(name: str, row: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        run(open_scorer(f"s.py:{name}").rate("x", None, "y", row))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("s.py:unknown", "it takes 'ouput'; did you mean output?"),
        ("s.py:placed", "it takes 'output' by place alone"),
        ("s.py:wating", "did you mean waiting?"),
        ("t.py:f", "no file t.py"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(spec: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        open_scorer(spec)
    assert said in str(error.value)


def test_its_source_is_part_of_what_scores_depend_on() -> None:
    before = open_scorer("s.py:free").identity
    Path("s.py").write_text(FILE + "\n# changed\n")
    assert open_scorer("s.py:free").identity != before
