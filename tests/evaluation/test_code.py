"""Programs of models are tested in the sandbox."""

import json
import time
from pathlib import Path

import pytest
from tests.evaluation.test_scorers import rated
from tests.scripting import run

from shoal.errors import UsageError
from shoal.evaluation.scorers import open_scorer

pytestmark = pytest.mark.usefixtures("confined")

GOOD = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds."
BAD = "```python\ndef add(a, b):\n    return a - b\n```"
TESTS = "assert add(1, 2) == 3\nassert add(2, 2) == 4\nassert add(0, 0) == 0\n"
PROMPT = 'def add(a, b):\n    """The sum.\n\n    >>> add(1, 2)\n    3\n    """\n'
HELPED = "def one():\n    return 1\n\n\ndef more(a):\n    '''One more.'''\n"
CHECK = "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(2, 2) == 4\n"
EVAL = "code(prompt=prompt, entry_point=name)"
SCORED = [
    ("code", GOOD, TESTS, {}, 1.0),
    ("code", GOOD, TESTS.splitlines(), {}, 1.0),
    ("code", BAD, TESTS, {}, 0.0),
    ("code(partial=true)", BAD, TESTS, {}, 1 / 3),
    ("code(partial=true)", GOOD, TESTS, {}, 1.0),
    ("code", "def add(a, b):\n    return a + b\n", TESTS, {}, 1.0),
    ("code", "I cannot.", TESTS, {}, 0.0),
    ("code", "", TESTS, {}, 0.0),
    ("code", GOOD, ">>> add(1, 2)\n3\n", {}, 1.0),
    ("code", BAD, ">>> add(1, 2)\n3\n", {}, 0.0),
    ("code", GOOD, "def test_it():\n    assert add(1, 1) == 2\n", {}, 1.0),
    ("code", "<think>" + GOOD, TESTS, {}, 0.0),
    # its own tests in a block of their own, and a block that the model was stopped at the end of
    ("code", GOOD + "\n```python\ndef test_add():\n    assert add(1, 2) == 3\n```", TESTS, {}, 1.0),
    ("code", GOOD + "\n```python\nclass TestAdd:\n    def test_it(self):\n        pass\n```", TESTS, {}, 1.0),
    ("code", GOOD[: GOOD.rindex("```")], TESTS, {}, 1.0),
    ("code", BAD[: BAD.rindex("```")], TESTS, {}, 0.0),
    # as in HumanEval: a whole function in a block, its body alone, and the rest of the code as a base model writes it
    (EVAL, GOOD, CHECK, {"prompt": PROMPT, "name": "add"}, 1.0),
    (EVAL, BAD, CHECK, {"prompt": PROMPT, "name": "add"}, 0.0),
    (EVAL, "    return a + b\n", CHECK, {"prompt": PROMPT, "name": "add"}, 1.0),
    (EVAL, "    return a * b\n", CHECK, {"prompt": PROMPT, "name": "add"}, 0.0),
    (EVAL, "```python\n    return a + b\n```", CHECK, {"prompt": PROMPT, "name": "add"}, 1.0),
    (EVAL, "    return a + b\n\n\nThat is the sum!\n", CHECK, {"prompt": PROMPT, "name": "add"}, 1.0),
    (EVAL, "    return a + b\n\n\ndef add(a, b):\n    return", CHECK, {"prompt": PROMPT, "name": "add"}, 0.0),
    (EVAL, "a + b\n\nprint('so", CHECK, {"prompt": PROMPT + "    return ", "name": "add"}, 1.0),
    (EVAL, "", CHECK, {"prompt": PROMPT, "name": "add"}, 0.0),
    (
        EVAL,
        "```python\ndef more(a):\n    return a + one()\n```",
        "def check(candidate):\n    assert candidate(1) == 2\n",
        {"prompt": HELPED, "name": "more"},
        1.0,
    ),
    # hostile
    ("code(seconds=1)", "```python\nwhile True: pass\n```", TESTS, {}, 0.0),
    ("code(seconds=1)", "```python\ndef add(a, b):\n    while True: pass\n```", TESTS, {}, 0.0),
    ("code", "```python\nimport sys\nsys.exit(0)\n```", TESTS, {}, 0.0),
    ("code", "```python\nimport os\nos._exit(0)\n```", TESTS, {}, 0.0),
    ("code(partial=true)", "```python\nprint('3 of 3 tests pass.' * 1000000)\n```", TESTS, {}, 0.0),
    ("code", "x = 1\n" * 2_000_000, TESTS, {}, 0.0),
    ("code", "```python\n" + "(" * 90_000 + "\n```", TESTS, {}, 0.0),
]


@pytest.mark.parametrize(("spec", "output", "target", "row", "score"), SCORED, ids=range(len(SCORED)))
def test_code(spec: str, output: str, target: object, row: dict[str, str], score: float) -> None:
    began = time.monotonic()
    assert run(rated(spec, output, target, **row)) == score
    assert time.monotonic() - began < 30


def test_a_program_reaches_nothing_outside(tmp_path: Path) -> None:
    place = tmp_path / "harmed"
    harm = (
        f"```python\nfrom pathlib import Path\nPath({json.dumps(str(place))}).touch()\ndef add(a, b): return a + b\n```"
    )
    assert run(rated("code", harm, TESTS)) == 0.0
    assert not place.exists()


def test_a_row_without_the_columns_is_named() -> None:
    with pytest.raises(UsageError, match="code: row 'r1' has no column 'name'"):
        run(rated("code(entry_point=name)", GOOD, CHECK, id="r1"))
    with pytest.raises(UsageError, match="'os; x' is not the name of a function"):
        run(rated("code(entry_point=name)", GOOD, CHECK, name="os; x"))
    assert open_scorer(EVAL).columns == ("prompt", "name")
