"""Faults that implementations of these techniques have had elsewhere, each shown not to be one here."""

from collections.abc import Callable

import pytest
from tests.scripting import answer_of

from shoal.runtime.types import Completion, Request, Usage
from shoal.techniques.program_of_thoughts import program_of_thoughts
from shoal.techniques.round_trip import round_trip
from shoal.techniques.z3_solver import z3_solver

# -- z3_solver, program_of_thoughts


def programs_writes(*programs: str) -> Callable[[Request], str]:
    """A model that writes each program in turn, and then says what the result is that it was shown."""

    def script(request: Request) -> str:
        text = request.text
        for opened, closed in (("<output>\n", "\n</output>"), ("the solver said:\n\n<result>\n", "\n</result>")):
            if opened in text:
                return text.split(opened)[1].split(closed)[0]
        turn = sum("<result>" in message.text for message in request.messages)
        return f"Solver: yes\n```python\n{programs[turn]}\n```" if len(request.text) > 100 else "by myself"

    return script


def test_programs_secrets_of_the_environment_do_not_reach_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    program = "import os\nprint('found:', os.environ.get('OPENAI_API_KEY'), len(os.environ))"
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, programs_writes(program), **options)
        assert completion.text == "found: None 0"
        assert not any("sk-very-secret" in message.text for r in backend.requests for message in r.messages)


def test_programs_a_rational_is_the_number_and_not_an_unknown_of_that_name() -> None:
    program = (
        "from z3 import *\nfrom sympy import Rational\nx = Real('x')\nsolve(x == Q(1, 3) + 1)\nprint(Rational(1, 3))"
    )
    completion, _ = answer_of(z3_solver, programs_writes(program), language="python")
    assert completion.text == "[x = 4/3]\n1/3"


def test_programs_a_function_sees_the_names_around_it() -> None:
    program = "import math\nsides = (3, 4)\ndef longest():\n    return math.hypot(*sides)\nprint(longest())"
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        assert answer_of(technique, programs_writes(program), **options)[0].text == "5.0"


def test_programs_the_last_repair_is_run() -> None:
    programs = programs_writes("1 / 0", "nobody()", "import nothing", "print('mended')")
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, programs, repairs=3, **options)
        assert (completion.text, len(backend.requests)) == ("mended", 5)


def test_programs_an_output_that_speaks_of_errors_is_no_failure() -> None:
    program = programs_writes("print('Standard Error: 0.5')")
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, program, **options)
        assert (completion.text, len(backend.requests)) == ("Standard Error: 0.5", 2)


def test_programs_an_empty_output_is_no_success() -> None:
    programs = programs_writes("print()", "print(5)")
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, programs, **options)
        assert (completion.text, len(backend.requests)) == ("5", 3)
        assert "printed nothing" in backend.requests[1].text


def test_programs_a_marker_in_bold_type_is_read() -> None:
    def script(request: Request) -> str:
        if "the solver said" in request.text:
            return "solved"
        return "**Solver:** Yes\n```smt2\n(assert true)(check-sat)\n```" if len(request.text) > 100 else "by myself"

    assert answer_of(z3_solver, script)[0].text == "solved"


def test_programs_usage_counts_every_call_and_nothing_of_another_request() -> None:
    said = programs_writes("1 / 0", "print(5)")

    def script(request: Request) -> Completion:
        return Completion(said(request), usage=Usage(7, 3, 1))

    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        for _ in range(2):
            assert answer_of(technique, script, **options)[0].usage == Usage(21, 9, 3)


def test_programs_code_of_the_message_is_never_run() -> None:
    message = "What does this do?\n```python\nprint('from the message')\n```"
    completion, backend = answer_of(program_of_thoughts, lambda r: "It prints a text.", message)
    assert (completion.text, completion.answer, len(backend.requests)) == ("It prints a text.", None, 1)
    completion, _ = answer_of(program_of_thoughts, programs_writes("print('its own')"), message)
    assert completion.text == "its own"


def test_programs_run_as_they_were_written() -> None:
    program = "figure = 3  # plt.show() is not called\nprint(figure)"
    assert answer_of(program_of_thoughts, programs_writes(program))[0].text == "3"


# -- round_trip


def round_trips(first: str | Completion, anew: str | Completion, other: str | Completion = "?") -> Completion:
    def script(request: Request) -> str | Completion:
        if "Describe what" in request.text:
            return "A function."
        if "<description>" in request.text:
            return anew
        if "up to ten calls" in request.text:
            return "```python\nf(1)\nf(3)\n```"
        return other if "Neither is known" in request.text else first if request.text == "Q?" else "Cannot say."

    return answer_of(round_trip, script)[0]


ROUND_TRIP_FIRST = "Take this:\n```python\ndef f(x):\n    return x * x\n```\nIt squares."


def test_round_trip_equal_programs_need_not_be_equal_text() -> None:
    anew = "```python\ndef f(value):\n    return value ** 2\n```"
    merged = "```python\ndef f(x):\n    return 'merged'\n```"
    assert round_trips(ROUND_TRIP_FIRST, anew, merged).text == ROUND_TRIP_FIRST


def test_round_trip_a_merged_program_is_not_trusted_unseen() -> None:
    anew = "```python\ndef f(x):\n    return x + x\n```"
    merged = "Here:\n```python\ndef f(x):\n    return 'drifted'\n```"
    assert round_trips(ROUND_TRIP_FIRST, anew, merged).text == ROUND_TRIP_FIRST


@pytest.mark.parametrize("cut", [Completion("```python\ndef f(", "length"), Completion("", "length"), "", "No."])
def test_round_trip_a_reply_that_is_cut_off_does_not_lose_the_first(cut: str | Completion) -> None:
    other = "```python\ndef f(x):\n    return x + x\n```"
    assert round_trips(ROUND_TRIP_FIRST, cut).text == ROUND_TRIP_FIRST
    assert round_trips(ROUND_TRIP_FIRST, other, cut).text == ROUND_TRIP_FIRST
    assert round_trips(cut, "?").finish_reason == (cut.finish_reason if isinstance(cut, Completion) else "stop")


def test_round_trip_the_answer_has_one_shape_on_every_path() -> None:
    better = "def f(x):\n    return x * x * 1"
    for anew in ("```python\ndef f(x):\n    return x*x\n```", f"```python\n{better}\n```", "No code."):
        completion = round_trips(ROUND_TRIP_FIRST, anew)
        assert completion.text.startswith("Take this:\n```python\ndef f(x)")
        assert completion.text.endswith("\n```\nIt squares.")
        assert completion.answer is not None
        assert completion.answer.startswith("def f(x)")
