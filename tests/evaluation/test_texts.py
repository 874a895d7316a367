"""Texts and patterns are looked for in outputs that may be very long and may be made to hold a search up."""

import gc
import time

import pytest
from tests.evaluation.test_scorers import rated
from tests.scripting import run

from shoal.evaluation.scorers import open_scorer

LONG = "x" * 10_000_000
BOMB = "a" * 50_000 + "!"

SCORED = [
    ("contains", "I think it is PARIS.", "Paris", 1.0),
    ("contains", "I think it is Lyon.", "Paris", 0.0),
    ("contains", "I think it is Lyon.", ["Paris", "Lyon"], 1.0),
    ("contains", "anything", [], 0.0),
    ("contains", "anything", "", 0.0),
    ("contains", "anything", None, 0.0),
    ("contains", "It is 42.", 42, 1.0),
    ("contains", "<think>Paris?</think> Lyon", "Paris", 0.0),
    ("contains", "<think>Paris", "Paris", 0.0),
    ("contains", "concatenate", "cat", 1.0),
    ("contains(words=true)", "concatenate", "cat", 0.0),
    ("contains(words=true)", "a Cat.", "cat", 1.0),
    ("contains(ignore_case=false)", "a Cat.", "cat", 0.0),
    ("contains", LONG + "Paris", "Paris", 1.0),
    ("contains", "Paris" + LONG, "Paris", 0.0),
    (r"regex(pattern=\d{3})", "it is 123", None, 1.0),
    (r"regex(pattern=\d{3})", "it is 12", None, 0.0),
    (r"regex(pattern=^b, flags=m)", "a\nb", None, 1.0),
    (r"regex(pattern=^b)", "a\nb", None, 0.0),
    (r"regex(pattern=PARIS, flags=i)", "Paris", None, 1.0),
    ('regex(pattern="a, b")', "a, b", None, 1.0),
    (r'regex(pattern="\d")', "7", None, 1.0),
    ("regex", "the colour", "colou?r", 1.0),
    ("regex", "the hue", "colou?r", 0.0),
    ("regex", "the hue", None, 0.0),
    ("regex", "<think>7", r"\d", 0.0),
    ("regex", "lone \ud800 surrogate 7", r"\d", 1.0),
    ("regex(pattern=xy$)", LONG + "y", None, 1.0),
    (r"regex(pattern=(a+)+$, seconds=0.3)", BOMB, None, 0.0),
    (r"regex(pattern=(x*)*y, seconds=0.3)", LONG, None, 0.0),
]


@pytest.mark.parametrize(("spec", "output", "target", "score"), SCORED, ids=range(len(SCORED)))
def test_texts(spec: str, output: str, target: object, score: float) -> None:
    began = time.monotonic()
    assert run(rated(spec, output, target)) == score
    assert time.monotonic() - began < 20  # a bomb would take longer than the universe has lasted


def test_a_search_that_was_ended_holds_up_no_other() -> None:
    async def both() -> list[float | None]:
        scorer = open_scorer("regex(pattern=(a+)+$, seconds=0.3)")
        return [await scorer.rate(text, None, None, {}) for text in (BOMB, "aaa", BOMB, "aaa")]

    assert run(both()) == [0.0, 1.0, 0.0, 1.0]
    gc.collect()  # the process it searched in goes with it, and warns of nothing
