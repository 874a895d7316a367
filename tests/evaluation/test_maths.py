"""Formulas are compared as mathematics; what a model wrote is read by the algebra system in the sandbox only."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.test_scorers import rated
from tests.scripting import run

from shoal.errors import SandboxUnavailable
from shoal.evaluation.scorers import open_scorer

# Decided without algebra: the sandbox is not asked.
PLAIN = [
    ("The answer is 1/2.", "0.5", 1.0),
    (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
    (r"So \boxed{42}", "We add.\n#### 42", 1.0),
    ("The answer is 41.", "42", 0.0),
    ("The answer is Evelyn.", "Evelyn", 1.0),
    ("The answer is Evelyn.", "Maria", 0.0),
    (r"\boxed{\text{neve}}", r"\text{even}", 0.0),  # letters of a word are no product
    (r"\boxed{x}", "apples and pears", 0.0),
    ("no idea", "42", 0.0),
    ("<think>42", "42", 0.0),
    (r"\boxed{" + "1+" * 600 + "1}", "x+601", 0.0),
    ("x" * 10_000_000, "x^2", 0.0),
    (r"\boxed{" * 1_000_000, "x^2", 0.0),
    ("The answer is 42.", None, 0.0),
]
FORMULAS = [
    (r"\boxed{(x+1)^2}", "x^2+2x+1", 1.0),
    (r"\boxed{(x+1)^2}", "x^2+2x+2", 0.0),
    (r"\boxed{x**2+1}", "1+x^2", 1.0),
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}", 1.0),
    ("The answer is sqrt(12).", r"2\sqrt{3}", 1.0),
    ("The answer is 2√3.", r"2\sqrt{3}", 1.0),
    ("The answer is √(x+1).", r"\sqrt{x+1}", 1.0),
    ("The answer is 2*pi.", r"2\pi", 1.0),
    ("The answer is pi/12.", r"\frac{\pi}{12}", 1.0),
    ("\\boxed{-q + p}", "p - q", 1.0),
    ("\\boxed{q - p}", "p - q", 0.0),
    (r"\boxed{\{2, 1\}}", r"\{1,2\}", 1.0),
    (r"\boxed{(1,2)}", "(2,1)", 0.0),
    (r"\boxed{[0, 1)}", "[0,1)", 1.0),
    (r"\boxed{[0, 1]}", "[0,1)", 0.0),
    (r"\boxed{2π}", r"2\pi", 1.0),
    (r"\boxed{y = 2x + 1}", "2x - y + 1 = 0", 1.0),
    (r"\boxed{\sin^2 x + \cos^2 x}", "1", 1.0),
    (r"\boxed{x = 5}", "5", 1.0),
    (r"$$\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}$$", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", 1.0),
    (r"\boxed{0.333333}", r"\frac{1}{3}", 1.0),
    (r"\boxed{0.34}", r"\frac{1}{3}", 0.0),
    (r"\boxed{50\%}", "0.5", 1.0),
    (r"\boxed{\frac{1}{}", "x^2", 0.0),
]


@pytest.mark.parametrize(("output", "target", "score"), PLAIN, ids=range(len(PLAIN)))
def test_what_needs_no_algebra(output: str, target: object, score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["shoal.evaluation.scorers.maths"], "run_python", None)
    assert run(rated("maths", output, target)) == score


@pytest.mark.usefixtures("confined")
@pytest.mark.parametrize(("output", "target", "score"), FORMULAS)
def test_formulas(output: str, target: object, score: float) -> None:
    assert run(rated("maths(seconds=30)", output, target)) == score


HARM = [
    "__import__('os').system('touch PLACE')",
    "x+__import__('pathlib').Path('PLACE').touch()",
    r"1+eval(\"open('PLACE','w')\")",
    "().__class__.__base__.__subclasses__()[0]^2",
    r"\input{/etc/passwd}+1",
    "exec(open('/etc/passwd').read())=1",
]


@pytest.mark.usefixtures("confined")
@pytest.mark.parametrize("wish", HARM)
def test_an_answer_that_would_do_harm_does_none(wish: str, tmp_path: Path) -> None:
    place = tmp_path / "harmed"
    for form in (r"\boxed{{{}}}", "The answer is {}"):
        output = form.format(wish.replace("PLACE", str(place)))
        assert run(rated("maths", output, "x^2+1")) == 0.0
    assert not place.exists()


@pytest.mark.usefixtures("confined")
@pytest.mark.parametrize("power", [r"10^{10^{10}}", "9**9**9**9", r"(x+1)^{100000}-x", r"\sum_{k=1}^{10^9} k^k"])
def test_a_formula_that_would_be_worked_at_for_ever_is_given_up(power: str) -> None:
    began = time.monotonic()
    assert run(rated("maths(seconds=1)", rf"\boxed{{{power}}}", "x+3/7")) == 0.0
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("confined")
def test_equal_answers_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    module = sys.modules["shoal.evaluation.scorers.maths"]
    run_python: Callable[..., Any] = module.run_python

    def counted(code: str, **options: Any) -> Any:
        asked.append(options["stdin"])
        return run_python(code, **options)

    monkeypatch.setattr(module, "run_python", counted)
    scorer = open_scorer("maths(seconds=30)")

    async def twice() -> list[float | None]:
        return [await scorer.rate(r"\boxed{(x+1)^2}", None, "x^2+2x+1", {}) for _ in range(2)]

    assert run(twice()) == [1.0, 1.0]
    assert len(asked) == 1


def test_without_a_sandbox_it_says_so_before_anything_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    for spec in ("maths", "code"):
        with pytest.raises(SandboxUnavailable):
            run(open_scorer(spec).need())
