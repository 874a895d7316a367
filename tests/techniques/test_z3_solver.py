"""The real solver decides; what fails is mended; what it cannot tell is never claimed."""

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.backends.scripted import Script
from shoal.errors import SandboxUnavailable, UsageError
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.z3_solver import z3_solver

THIRD = "(declare-const x Real)\n(assert (= (* 3 x) 4))\n(check-sat)\n(get-value (x))"
NEVER = "(declare-const x Int)\n(assert (< x x))\n(check-sat)\n(get-model)"
CUBES = """(set-option :timeout 300)
(declare-const x Int)(declare-const y Int)(declare-const z Int)
(assert (= (+ (* x x x) (* y y y) (* z z z)) 42))
(check-sat)"""


def formal(script: str, language: str = "smt2") -> str:
    return f"x is unknown.\nSolver: yes\n```{language}\n{script}\n```"


def solver(*replies: str | Completion) -> Script:
    """A model that formalises by each reply in turn, and answers with the result it is shown, or by itself."""

    def script(request: Request) -> str | Completion:
        text = request.messages[-1].text
        if "This is all that the solver said" in text:
            return "Found: " + text.split("<result>\n")[1].split("\n</result>")[0]
        if not any("constraint solver" in message.text for message in request.messages):
            return "by myself"
        return replies[sum("<result>" in message.text for message in request.messages)]

    return script


def test_the_answer_stands_on_the_solvers_result() -> None:
    completion, backend = answer_of(z3_solver, solver(formal(THIRD)))
    assert "((x (/ 4.0 3.0)))" in completion.text
    assert backend.batches == [1, 1]
    assert completion.usage.calls == 2
    assert THIRD in backend.requests[-1].text


def test_no_model_of_what_is_unsatisfiable_is_no_error() -> None:
    completion, backend = answer_of(z3_solver, solver(formal(NEVER)))
    assert completion.text.startswith("Found: unsat")
    assert len(backend.requests) == 2


def test_errors_are_mended_and_every_repair_is_run() -> None:
    replies = formal("(asert true)"), formal("(declare-const x Foo)\n(check-sat)"), formal(THIRD)
    completion, backend = answer_of(z3_solver, solver(*replies), repairs=2)
    assert "4.0 3.0" in completion.text
    assert len(backend.batches) == completion.usage.calls == 4
    assert "asert" in backend.requests[1].text
    assert "Foo" in backend.requests[2].text
    assert backend.requests[2].messages[:3] == backend.requests[1].messages


def test_unknown_is_told_as_such_and_never_claimed() -> None:
    completion, backend = answer_of(z3_solver, solver(formal(CUBES), formal(CUBES)), repairs=1)
    assert (completion.text, completion.usage.calls) == ("by myself", 3)
    assert "could not tell" in backend.requests[1].text
    assert "unknown" in backend.requests[1].text
    assert backend.requests[-1] == Request.of("Q?")


def test_a_timeout_is_told_as_such() -> None:
    slow = CUBES.replace("(set-option :timeout 300)", "")
    completion, backend = answer_of(z3_solver, solver(formal(slow), formal(THIRD)), seconds=2.0)
    assert " time" in backend.requests[1].text.split("<result>")[-1]
    assert "4.0 3.0" in completion.text


def test_a_script_that_asks_nothing_is_mended() -> None:
    _, backend = answer_of(z3_solver, solver(formal("(declare-const x Int)"), formal(THIRD)))
    assert "asked nothing" in backend.requests[1].text


@pytest.mark.parametrize("marker", ["Solver: no", "**Solver:** No", "- solver: *no*", "> Solver : false"])
def test_a_problem_that_is_none_for_a_solver_is_answered_as_it_is(marker: str) -> None:
    completion, backend = answer_of(z3_solver, solver(f"It is a poem.\n{marker}\n"))
    assert completion.text == "by myself"
    assert backend.batches == [1, 1]
    assert backend.requests[-1] == Request.of("Q?")


def test_a_script_counts_without_the_marker_and_a_marker_without_a_script_is_mended() -> None:
    assert "4.0" in answer_of(z3_solver, solver(f"```smt2\n{THIRD}\n```"))[0].text
    completion, backend = answer_of(z3_solver, solver("**Solver: yes**", formal(THIRD)))
    assert "no code block" in backend.requests[1].text
    assert "4.0" in completion.text


def test_a_script_that_was_cut_off_is_mended() -> None:
    cut = Completion("Solver: yes\n```smt2\n(declare-const", "length")
    completion, backend = answer_of(z3_solver, solver(cut, formal(THIRD)))
    assert "cut off" in backend.requests[1].text
    assert "4.0" in completion.text


def test_python_keeps_exact_values_exact_and_sees_its_own_names() -> None:
    program = """from z3 import Q, Real, Solver
from sympy import Rational
third = Rational(1, 3)
def more(y):
    return third + y
x = Real("x")
solver = Solver()
solver.add(x == Q(1, 3) + 1)
print(solver.check(), solver.model()[x], more(1))"""
    completion, _ = answer_of(z3_solver, solver(formal(program, "python")), language="python")
    assert completion.text == "Found: sat 4/3 4/3"


def test_the_conversation_and_the_form_are_kept() -> None:
    turns = (Message("system", "Be kind."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    tool = Json.of({"type": "function", "function": {"name": "f"}})
    request = Request(turns, tools=(tool,)).with_params(max_tokens=5, temperature=0.4).draw(3)
    _, backend = answer_of(z3_solver, solver(formal(THIRD)), request)
    first, final = backend.requests
    assert first.messages[:3] == final.messages[:3] == turns[:3]
    assert (first.params.max_tokens, first.params.temperature, first.tools) == (None, 0.4, ())
    assert (final.params, final.tools) == (request.params, request.tools)
    assert {first.sample, final.sample} == {(3,)}


@pytest.mark.parametrize("options", [{"language": "prolog"}, {"repairs": -1}, {"seconds": -1.0}])
def test_bad_options_cost_nothing(options: dict[str, object]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=f"{next(iter(options))}="):
        run(apply(z3_solver, model, **options)("Q?"))
    assert backend.requests == []


def test_without_a_sandbox_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    model, backend = scripted(lambda r: "x")
    with pytest.raises(SandboxUnavailable, match="SHOAL_SANDBOX"):
        run(apply(z3_solver, model)("Q?"))
    assert backend.requests == []
