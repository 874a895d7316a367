"""SMT-LIB: what reaches the solver, and what its answers mean."""

import asyncio

import pytest

from shoal.errors import UsageError
from shoal.sandbox import Limits, Outcome, places, run_smt, smt

X = "(declare-const x Int)"


def run(text: str, **limits: float) -> Outcome:
    return asyncio.run(run_smt(text, limits=Limits(**limits)))  # type: ignore[arg-type]


TAKEN = [
    "",
    "; nothing but a comment",
    "(check-sat)",
    "(set-logic QF_LIA)(set-info :status sat)(check-sat)",
    f"{X}(assert (> x 3))(check-sat)(get-model)",
    f"{X}(assert (! (> x 3) :named big))(check-sat)(get-value (x (+ x 1)))",
    "(declare-fun |odd name; (| () Int)(assert (= |odd name; (| 1))(check-sat)",
    '(echo "a ""quoted"" ; (word")(check-sat)',
    "(declare-datatypes ((Row 1)) ((par (T) ((nil) (cons (head T) (tail (Row T)))))))(check-sat)",
    "(define-fun-rec f ((n Int)) Int (ite (< n 1) 0 (+ n (f (- n 1)))))(assert (= (f 3) 6))(check-sat)",
    "(define-sort A () (Array Int Bool))(declare-const a A)(assert (select a 0))(check-sat)",
    "(declare-const b (_ BitVec 8))(assert (= (bvadd b #x01) #b00000000))(check-sat)(get-value (b))",
    '(declare-const s String)(assert (= (str.len s) 3))(check-sat)',
    f"{X}(maximize x)(assert (< x 5))(check-sat)(get-objectives)",
    f"{X}(assert-soft (> x 5) :weight 2 :id g)(assert (< x 3))(check-sat)",
    f"{X}(push 1)(assert (> x 3))(check-sat)(pop 1)(check-sat-assuming ((> x 1)))",
    "(set-option :produce-unsat-cores true)(declare-const a Bool)(assert (! a :named p))(assert (! (not a) :named q))"
    "(check-sat)(get-unsat-core)",
    "(set-option :timeout 500)(set-option :opt.priority lex)(set-option :pp.decimal true)(check-sat)",
    f"{X}(assert (> x 3))(assert (< x 3))(check-sat)(get-model)",  # nothing to show is no error
    "(get-info :reason-unknown)(exit)",
    '(check-sat)(echo "timeout")',
]  # fmt: skip
REFUSED = {
    '(include "/etc/passwd")': "line 1: the command 'include'",
    '(|include| "/etc/passwd")': "'|include|'",
    "(check-sat)\n\n(include \"x\")": "line 3: the command 'include'",
    '(set-option :regular-output-channel "/tmp/escaped")': "option",
    '(set-option :diagnostic-output-channel "/tmp/escaped")': "option",
    '(set-option |:regular-output-channel| "/tmp/escaped")': "option",
    "(set-option :timeout)": "option",
    "(set-option :timeout 1 :trace true)": "option",
    "(set-option :timeout -1)": "option",
    '(set-option :random-seed "1")': "option",
    "(set-option :trace_file_name x)": "option",
    "(set-option :dump_models true)": "option",
    "(apply simplify)": "'apply'",
    "(display x)": "'display'",
    "(load-file x)": "'load-file'",
    "((include) x)": "'('",
    "()": "')'",
    "check-sat": "outside of any command",
    '"(check-sat)"': "outside of any command",
    "(check-sat))": "outside of any command",
    "(assert (> x 1)": "1 closing parentheses are missing",
    '(echo "never ends)': "does not end",
    '(assert #|x| " |# true) (help) (echo ")': "cannot stand here",  # for z3, `#|` begins a comment
    "(assert a#|x|)": "cannot stand here",
    "(assert |never ends)": "does not end",
    "(echo \u2028)": "cannot stand here",
    "(check-sat\0)": "cannot stand here",
    "(assert " + "(not " * 300 + "true" + ")" * 301: "nested more than",
    "(check-sat)" * 20_000: "tokens",
    ";" * (1 << 19): "characters",
    "Here is the script:\n(check-sat)": "'Here' stands outside",
    "```smt2\n(check-sat)\n```": "cannot stand here",
}  # fmt: skip


@pytest.mark.parametrize("text", TAKEN)
@pytest.mark.usefixtures("tier")
def test_taken(text: str) -> None:
    outcome = run(text)
    assert outcome.ok, outcome


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:30])
def test_refused(text: str) -> None:
    with pytest.raises(smt.Refused) as refused:
        smt.filtered(text)
    assert REFUSED[text] in str(refused.value)


@pytest.mark.usefixtures("tier")
def test_a_refusal_is_an_outcome() -> None:
    outcome = run('(check-sat)\n(include "/etc/passwd")')
    assert not outcome.ok
    assert outcome.stdout == ""
    assert outcome.error == "line 2: the command 'include' is not taken here"


def test_what_is_passed_on_keeps_its_place() -> None:
    text = '; über\n(assert ; why\n  (= |a;b| "x\ny"))\t(check-sat)'
    passed = smt.filtered(text).decode()
    assert passed == '      \n(assert      \n  (= |a;b| "x\ny")) (check-sat)'
    assert smt.filtered(passed).decode() == passed


@pytest.mark.usefixtures("tier")
def test_answers() -> None:
    outcome = run(f"{X}(assert (= (* 6 7) x))(check-sat)(get-value (x))")
    assert outcome.stdout == "sat\n((x 42))\n"
    assert run("(assert false)(check-sat)").stdout == "unsat\n"


@pytest.mark.usefixtures("tier")
def test_errors_point_into_the_text() -> None:
    outcome = run(f"{X}\n; a comment\n(assert (> y 3))\n(check-sat)")
    assert not outcome.ok
    assert outcome.error == "line 3 column 11: unknown constant y"


@pytest.mark.usefixtures("tier")
def test_limits_stop_the_solver() -> None:
    hard = "(declare-const {0} Int)(declare-const y Int)(assert (= (* {0} {0} {0}) (+ 2 (* y y y y))))(assert (> y 99))"
    outcome = run(f"(check-sat)(reset){hard.format('x')}(check-sat)", wall=1)
    assert outcome.stopped == "wall time"
    assert outcome.stdout.startswith("sat\n")
    large = "(declare-const b (_ BitVec 4000))(assert (= (bvmul b b) (_ bv12345678912345678917 4000)))(check-sat)"
    assert run(large, memory=100 << 20, wall=20).stopped == "memory"
    assert run('(echo "' + "x" * 5000 + '")', output=1000).stopped == "output"


def test_the_jail_stops_what_the_filter_would_not(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smt, "COMMANDS", smt.COMMANDS | {"include"})
    outcome = run('(include "/etc/passwd")')
    assert not outcome.ok
    assert "root" not in outcome.stdout


def test_without_z3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "z3", lambda: "")
    with pytest.raises(UsageError, match=r"pip install 'shoal\[sandbox\]'"):
        run("(check-sat)")
