"""What is read out of replies and messages, and what a run of tests tells; programs run in the real sandbox."""

import ast

import pytest
from tests.scripting import run

from shoal.errors import UsageError
from shoal.prompting.answers import blocks
from shoal.runtime.types import Completion, Request
from shoal.techniques._program_tests import Step, behaviour, calls_in, is_telling, read_tests, run_tests
from shoal.techniques._programs import Result, block_in, parsed, python_in, run_program, shortened, smt_in


def found(text: str, finish_reason: str = "stop") -> tuple[str | None, str | None]:
    return python_in(Completion(text, finish_reason))


def of_message(text: str) -> list[str]:
    return [step.source.strip() for step in read_tests(Request.of(text), None) if step.test]


def score(program: str, tests: str) -> Result:
    return run(run_tests(program, read_tests(Request.of("Q"), tests), 5.0))


def test_blocks_know_their_language_and_their_end() -> None:
    first, second, third = blocks("```Python\na\n```\n~~~\nb\n~~~\n```json\n{")
    assert (first.language, first.text, first.closed) == ("python", "a", True)
    assert (second.language, second.text, second.closed) == ("", "b", True)
    assert (third.language, third.text, third.closed) == ("json", "{", False)
    assert blocks("no code") == []


def test_the_program_is_the_last_python_block_that_reads_as_python() -> None:
    assert found("```python\na = 1\n```\nIt prints:\n```\n42 apples\n```") == ("a = 1", None)
    assert found("```python\na = 1\n```\n```python\na = = 1\n```") == ("a = 1", None)
    assert found("```python\na = = 1\n```") == ("a = = 1", None)  # running it tells what is wrong
    assert found("```\nprint(1)\n```") == ("print(1)", None)
    assert found("```{.python3 title=x}\nprint(1)\n```") == ("print(1)", None)
    assert found("<think>```python\nprint(1)\n```</think>Hello.") == (None, None)


def test_without_a_whole_block_it_is_known_why() -> None:
    assert found("The answer is 5.") == (None, None)
    assert found("```\nRoses are red\n```") == (None, None)
    assert "cut off" in str(found("Let me think", "length")[1])
    assert "no end" in str(found("```python\nprint(1)")[1])


def test_where_a_definition_is_wanted_an_example_of_its_use_is_not_it() -> None:
    reply = Completion("```python\ndef f():\n    return 1\n```\nUse it so:\n```python\nf()\n```")
    assert python_in(reply, defining=True)[0] == "def f():\n    return 1"
    block = block_in(reply)
    assert block is not None
    assert block.text.startswith("def f")


def test_hostile_text_is_no_program() -> None:
    assert parsed("(" * 5000) is None
    assert parsed("x" * 200_000) is None
    assert parsed("\0") is None
    assert parsed("-" * 50_000 + "1") is None
    assert parsed("+".join("1" * 1000)) is None  # it could not be written out again
    assert ast.unparse(parsed("+".join("1" * 95)) or ast.Module([], []))


def test_smt_text_is_marked_or_looks_so() -> None:
    assert smt_in(Completion("```smt2\n(check-sat)\n```\n```text\n(a)\n```")) == ("(check-sat)", None)
    assert smt_in(Completion("```\n; a puzzle\n(check-sat)\n```")) == ("; a puzzle\n(check-sat)", None)
    assert smt_in(Completion("```python\nprint(1)\n```")) == (None, None)


def test_a_long_output_keeps_both_ends() -> None:
    text = shortened("a" * 5000 + "z" * 5000)
    assert text.startswith("aaa")
    assert text.endswith("zzz")
    assert "6000 characters are left out" in text


def test_a_program_that_prints_nothing_has_failed() -> None:
    assert "printed nothing" in str(run(run_program("x = 1", 5)).problem)
    assert "ZeroDivisionError" in str(run(run_program("print('so far')\n1 / 0", 5)).problem)
    assert "so far" in str(run(run_program("print('so far')\n1 / 0", 5)).problem)
    assert run(run_program("print('Standard Error: 0.5')", 5)) == Result("Standard Error: 0.5")
    assert "used up its" in str(run(run_program("while True: pass", 0.5)).problem)


def test_tests_are_read_from_the_message() -> None:
    assert of_message("Write f.\n```tests\nx = 2\nassert f(x) == 4\ncheck(f)\n```") == ["assert f(x) == 4", "check(f)"]
    assert of_message("Write f so that\n- `assert f(2) == 4`\n2. assert f(3) == 9\nholds.") == [
        "assert f(2) == 4",
        "assert f(3) == 9",
    ]
    assert of_message("assert f([1,\n  2]) == 3\nis what I want") == ["assert f([1, 2]) == 3"]
    assert of_message('def f(x):\n    """Square.\n    >>> f(2)\n    4\n    """') == ["f(2)"]
    assert of_message("```python\nimport m\nassert f(2) == 4\n```") == ["assert f(2) == 4"]
    assert of_message("```python\ndef test_it():\n    assert f(2) == 4\n```") == ["test_it()"]


@pytest.mark.parametrize(
    "text",
    [
        "What is 2 + 2?",
        "assert that you are right",
        "assert yourself",
        "```python\ndef f(x):\n    assert len(x) > 0\n    return x\n```\nWhat is wrong?",
        "```python\nprint(1)\n```",
        ">>> x = 1",
        ">>> 0.1 + 0.2\n0.30000000000000004\nWhy?",
        ">>> I wrote to f(2) yesterday\nand got no reply",
    ],
)
def test_what_is_no_test_is_not_taken_for_one(text: str) -> None:
    assert of_message(text) == []


def test_a_solution_in_the_message_does_not_stand_in_for_the_program() -> None:
    message = "Mend f:\n```python\ndef f(x):\n    return 1\n\ndef test_f():\n    assert f(2) == 4\n```"
    assert run(run_tests("def f(x):\n    return x * x", read_tests(Request.of(message), None), 5)).problem is None
    assert run(run_tests("def f(x):\n    return 1", read_tests(Request.of(message), None), 5)).problem is not None


def test_tests_without_a_test_are_refused() -> None:
    with pytest.raises(UsageError, match="tests='x = 1'"):
        read_tests(Request.of("Q"), "x = 1")
    assert read_tests(Request.of("assert f(2) == 4"), "") == []


def test_each_test_counts_and_the_problem_says_what_came_out() -> None:
    tests = "assert f(2) == 4\nassert f(3) == 9\nassert f(-1) == 1"
    assert score("def f(x):\n    return x * x", tests) == Result("3 of 3 tests pass.", None, 3)
    half = score("def f(x):\n    return x + x", tests)
    assert half.passed == 1
    for said in ("1 of 3", "assert f(3) == 9", "The value of f(3) is 6", "f(-1) is -2"):
        assert said in str(half.problem)


def test_every_kind_of_test_runs() -> None:
    assert score("def f(x):\n    return x", ">>> f(1)\n1\n>>> f('a')\n'a'\n").passed == 2
    assert score("def f(x):\n    return x", ">>> f(1)\n1\nand so on, please").problem is None
    assert score("def f(x):\n    return x", ">>> f(1)\n2\n").passed == 0
    raising = ">>> f(0)\nTraceback (most recent call last):\n  ...\nValueError: no\n"
    assert score("def f(x):\n    raise ValueError('no')", raising).problem is None
    assert score("def f(x):\n    return x", raising).problem is not None
    case = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), {})\n"
    assert score("def f(x):\n    return x", case.format(1) + "unittest.main()").problem is None
    assert "1 != 2" in str(score("def f(x):\n    return x", case.format(2)).problem)
    assert score("def f(x):\n    return x", "def check(g):\n    assert g(1) == 1\ncheck(f)").passed == 1


def test_a_program_that_ends_or_hangs_has_not_passed() -> None:
    assert score("import sys\nsys.exit(0)", "assert f(1)").passed == 0
    assert score("import os\nos._exit(0)", "assert f(1)").problem is not None
    hanging = "def f(x):\n    while x == 2: pass\n    return x"
    result = run(run_tests(hanging, read_tests(Request.of("Q"), "assert f(1) == 1\nassert f(2) == 2"), 3.0))
    assert result.passed == 1
    assert "assert f(2) == 2" in str(result.problem)
    leaving = "import os\ndef f(x):\n    os._exit(0)"
    assert "ended itself" in str(score(leaving, "assert f(1) == 1").problem)


def test_a_main_part_does_not_run_with_tests_and_what_is_printed_is_no_result() -> None:
    program = "def f(x):\n    print('pass')\n    return x\nif __name__ == '__main__':\n    f(input())"
    assert score(program, "assert f(1) == 1").problem is None


def test_behaviour_is_output_values_and_errors() -> None:
    calls = calls_in("f(2)\nf('a')\nx = 3\nf(x)")
    seen = run(behaviour("print('hi')\ndef f(x):\n    return x * x", calls, 5))
    assert seen == ["hi", "4", "raises TypeError\n", "", "9"]
    assert is_telling(seen)
    assert not is_telling(["", "raises TypeError\n"])
    assert not is_telling(run(behaviour("while True: pass", calls, 0.5)))
    assert len(calls_in("\n".join(["f(1)"] * 50))) == 20
    assert run(behaviour("class A: pass", [Step("A()", value=True)], 5))[1].endswith("at 0x>")


@pytest.mark.parametrize(
    "loud", ["print('x' * 2_000_000)\ndef f(x):\n    return x", "def f(x):\n    print('x' * 2_000_000)\n    return x"]
)
def test_a_program_that_prints_megabytes_is_tested_like_any_other(loud: str) -> None:
    assert score(loud, "assert f(1) == 1\nassert f(2) == 2").passed == 2
    assert score(loud, "assert f(1) == 1\nassert f(2) == 3").passed == 1


def test_long_values_are_told_apart_though_they_are_cut() -> None:
    calls = calls_in("f('a')\nf('b')")
    seen = run(behaviour("def f(x):\n    return 'x' * 1_000_000 + x", calls, 5))
    assert len({seen[1], seen[2]}) == 2
    assert all(len(text) < 20_000 for text in seen)


def test_a_program_cannot_break_what_is_told_of_it() -> None:
    writes = (
        "import __main__\ndef f(x):\n    __main__.out.write('\\n' + __main__.job['mark'] + {!r} + '\\n')\n    return x"
    )
    for told in ("garbage", '{"ok": 3}', "[]", '{"ok": tr'):
        assert score(writes.format(told), "assert f(1) == 1").passed == 0


def test_what_a_program_prints_can_be_sent_to_a_model() -> None:
    result = score("def f(x):\n    assert False, '\\ud800'", "assert f(1) == 1")
    assert "AssertionError" in str(result.problem)
    seen = run(behaviour("def f(x):\n    print('\\ud800')", calls_in("f(1)"), 5))
    "".join([*seen, str(result.problem)]).encode()


def test_what_a_program_prints_is_not_taken_for_the_program() -> None:
    assert found("```python\nprint(6 * 7)\n```\nIt prints:\n```\n42\n```") == ("print(6 * 7)", None)
    assert found("```\nprint(6 * 7)\n```\n```python\nprint(6 *\n```") == ("print(6 * 7)", None)


def test_a_block_in_a_list_or_a_quotation_is_without_its_margin() -> None:
    assert found("1. So:\n   ```python\n   if 1:\n\n     print(8)\n   ```\n") == ("if 1:\n\n  print(8)", None)
    assert found("> ```python\n> if 1:\n>\n>   print(8)\n> ```\n") == ("if 1:\n\n  print(8)", None)
    assert found(" ```python\nif 1:\n  print(8)\n ```\n") == ("if 1:\n  print(8)", None)


def test_an_import_that_fails_is_no_failure_where_all_tests_pass() -> None:
    tests = "from solution import f\nassert f(1) == 1"
    assert score("def f(x):\n    return x", tests).problem is None
    assert "solution" in str(score("def f(x):\n    return 2", tests).problem)
    assert score("def f(x):\n    return x", "x = f(1) / 0\nassert f(1) == 1").problem is not None


def test_unit_tests_in_the_message_are_found() -> None:
    case = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 1)"
    assert len(of_message(f"Write f.\n```python\n{case}\n```")) == 1
