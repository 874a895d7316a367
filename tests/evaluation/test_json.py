"""JSON values are found where they stand in an output, and compared as JSON compares them."""

import time

import pytest
from tests.evaluation.test_scorers import rated
from tests.scripting import run

from shoal.evaluation.scorers import open_scorer
from shoal.runtime.types import Completion

SCORED = [
    ("json", '{"a": [1, 2]}\n\nNote: the list [1, 2] is as you gave it [1].', {"a": [1, 2]}, 1.0),
    ("json", '{"a": 0}, no: {"a": 1}. See [1].', {"a": 0}, 0.0),
    ("json", 'The items are [1, 2], from {"a": 1}.', [1, 2], 1.0),
    ("json", "The items are [1, 2].", {"a": 1}, 0.0),
    ("json", '{"a": 1}', {"a": 1}, 1.0),
    ("json", '{"a": 1}', '{"a": 1.0}', 1.0),
    ("json", '{"a": 1}', {"a": True}, 0.0),
    ("json", '{"a": 1}', {"a": "1"}, 0.0),
    ("json", '{"b": 2, "a": 1}', {"a": 1, "b": 2}, 1.0),
    ("json", '{"a": 1, "b": 2}', {"a": 1}, 0.0),
    ("json", '{"a": 1}', {"a": 1, "b": 2}, 0.0),
    ("json", 'Here it is: {"a": [1, 2]}. Good?', {"a": [1, 2]}, 1.0),
    ("json", 'First {"a": 0}, no: {"a": 1}', {"a": 1}, 1.0),
    ("json", 'First {"a": 1}, no: {"a": 0}', {"a": 1}, 0.0),
    ("json", 'See:\n```json\n{"a": 1}\n```\nwhich has {a} in it [sic]', {"a": 1}, 1.0),
    ("json", '<think>{"a": 1}</think> {"a": 2}', {"a": 2}, 1.0),
    ("json", '<think>{"a": 1}', {"a": 1}, 0.0),
    ("json", "[1, 2, 3]", [3, 2, 1], 0.0),
    ("json(ignore_order=true)", "[1, 2, 2]", [2, 1, 2], 1.0),
    ("json(ignore_order=true)", "[1, 1, 2]", [2, 1, 2], 0.0),
    ("json(ignore_order=true)", '{"a": [{"x": [1, 2]}, {}]}', {"a": [{}, {"x": [2, 1]}]}, 1.0),
    ("json(subset=true)", '{"a": 1, "b": 2}', {"a": 1}, 1.0),
    ("json(subset=true)", '[{"a": 1, "b": 2}]', [{"a": 1}], 1.0),
    ("json(subset=true)", '{"b": 2}', {"a": 1}, 0.0),
    ("json(tolerance=0.01)", '{"pi": 3.14}', {"pi": 3.14159}, 1.0),
    ("json(tolerance=0.0001)", '{"pi": 3.14}', {"pi": 3.14159}, 0.0),
    ("json(tolerance=0.1)", "[1" + "0" * 400 + "]", [1.0], 0.0),
    # 10.5 fits both; only if 10 is left to 9.6 does each have one of its own
    ("json(tolerance=0.05, ignore_order=true)", "[10, 10.5]", [10.3, 9.6], 1.0),
    ("json(tolerance=0.05, ignore_order=true)", "[10, 11.5]", [10.3, 9.6], 0.0),
    ("json", "42", 42, 1.0),
    ("json", "The answer is 42.", 42, 1.0),
    ("json", "The answer is Paris.", '"Paris"', 1.0),
    ("json", "null", None, 1.0),
    ("json", "NaN", "1", 0.0),
    ("json", "no JSON here", {"a": 1}, 0.0),
    ("json", "", {"a": 1}, 0.0),
    ("json", "[" * 5_000_000, {"a": 1}, 0.0),
    ("json", '{"a":' * 1_000_000, {"a": 1}, 0.0),
    ("json", "[1," * 3_000_000, {"a": 1}, 0.0),
    ("json", '["' + "x" * 10_000_000, {"a": 1}, 0.0),
    ("json", "x" * 10_000_000 + '{"a": 1}', {"a": 1}, 1.0),
    ("json", "1" * 10_000, 1, 0.0),
]


@pytest.mark.parametrize(("spec", "output", "target", "score"), SCORED, ids=range(len(SCORED)))
def test_json(spec: str, output: str, target: object, score: float) -> None:
    began = time.monotonic()
    assert run(rated(spec, output, target)) == score
    assert time.monotonic() - began < 10


def test_lists_in_any_order_are_matched_as_a_whole() -> None:
    wanted = list(range(900))
    turned = wanted[450:] + wanted[:450]
    assert run(rated("json(ignore_order=true)", str(turned), wanted)) == 1.0
    assert run(rated("json(ignore_order=true)", str([*turned[:-1], 1000]), wanted)) == 0.0


def test_the_short_answer_is_the_value() -> None:
    answer, score = run(open_scorer("json").score(Completion('It is { "a":1 } I think.'), {"a": 1}, {}))
    assert (answer, score) == ('{"a": 1}', 1.0)
