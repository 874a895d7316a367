"""The grammar of model specs, and one line for each way to get it wrong."""

import re
from functools import partial
from pathlib import Path

import pytest
from tests.scripting import run, scripted

from shoal.cli import main
from shoal.errors import UsageError
from shoal.runtime.model import Applied, Model, apply
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.combining import pipeline
from shoal.techniques.opening import bases, names, open_model
from shoal.techniques.spec import parse_spec


def parsed(spec: str) -> tuple[Model, list[str]]:
    opened: list[str] = []

    def open_base(base: str) -> Model:
        opened.append(base)
        return scripted(lambda r: base, name=base)[0]

    return parse_spec(spec, open_base), opened


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("local", "local"),
        ("openai/gpt-4o@2024", "openai/gpt-4o@2024"),
        ("self_consistency@local", "self_consistency@local"),
        ("self_consistency(n=3)@best_of_n@local", "self_consistency(n=3)@best_of_n@local"),
        (" bon ( n = 2 ) @ local ", "best_of_n(n=2)@local"),
        ("moa(width=2, layers=2)@a/b", "mixture_of_agents(width=2, layers=2)@a/b"),
        ("self_consistency(kind='number')@local", "self_consistency(kind='number')@local"),
        ("self_consistency()@local", "self_consistency@local"),
        ("best_of_n(judge=none)@local", "best_of_n(judge=None)@local"),
        ("best_of_n(judge=self_consistency(n=2)@j/x)@local", "best_of_n(judge=self_consistency(n=2)@j/x)@local"),
        ("moa(proposers=[a/x, bon(n=2)@b/y])@c/z", "mixture_of_agents(proposers=[a/x, best_of_n(n=2)@b/y])@c/z"),
        ("mars-2b/x", "mars-2b/x"),
        ("openai/best_of_n@home", "openai/best_of_n@home"),
        ("re2&bon(n=2)@local", "re_reading&best_of_n(n=2)@local"),
        ("re2|bon&moa@a/b", "re_reading|best_of_n&mixture_of_agents@a/b"),
        (" ( re2 | bon(n=2) ) & moa @ local", "(re_reading|best_of_n(n=2))&mixture_of_agents@local"),
        ("re2&(bon&moa)@local", "re_reading&(best_of_n&mixture_of_agents)@local"),
        ("(re2@bon)&moa@local", "(re_reading@best_of_n)&mixture_of_agents@local"),
        ("re2&bon@moa|re2@a/b@2024", "re_reading&best_of_n@mixture_of_agents|re_reading@a/b@2024"),
        ("((re2@bon&moa)@re2)@local", "re_reading@best_of_n&mixture_of_agents@re_reading@local"),
        ("bon(judge=re2&moa@j/x)|re2@a/b", "best_of_n(judge=re_reading&mixture_of_agents@j/x)|re_reading@a/b"),
        ("moa(proposers=[re2|bon@a/x, b/y])@c/z", "mixture_of_agents(proposers=[re_reading|best_of_n@a/x, b/y])@c/z"),
        ("two_turn(ask='Now, a @ (b')&re2@local", "two_turn(ask='Now, a @ (b')&re_reading@local"),
        ("two_turn(ask=don't)@local", 'two_turn(ask="don\'t")@local'),
        ("two_turn(ask='a\\n\\'b\\\\')@local", 'two_turn(ask="a\\n\'b\\\\")@local'),
        ("lab/x&y|z@2024", "lab/x&y|z@2024"),
        ("lab/x(1)@home", "lab/x(1)@home"),
        ("gguf/a(b.gguf", "gguf/a(b.gguf"),
    ],
)
def test_specs(spec: str, shown: str) -> None:
    """What is shown is a spec too, of the same model."""
    assert repr(parsed(spec)[0]) == shown
    assert repr(parsed(shown)[0]) == shown
    assert parsed(shown)[1] == parsed(spec)[1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("self_consistancy@local", "unknown technique 'self_consistancy' .* did you mean self_consistency"),
        ("best_of_n(m=3)@local", "best_of_n has no option 'm'"),
        ("best_of_n(jugde=local)@local", "did you mean judge"),
        ("best_of_n(n=three)@local", "'three' is not a whole number"),
        ("best_of_n(n=2, n=3)@local", "best_of_n(n=2, n=3): n is given twice"),
        ("best_of_n(3)@local", "'3' should be option=value"),
        ("self_consistency(similarity=f)@local", "only be given from Python"),
        ("locale", "unknown model 'locale'; did you mean local"),
        ("opanai/gpt", "unknown model 'opanai/gpt'; did you mean openai"),
        ("openai", "expected openai/MODEL"),
        ("openai/gpt-x", "needs OPENAI_API_KEY"),
        ("gguf/", "expected gguf/PATH"),
        ("scripted/nowhere.py:f", "no file nowhere.py"),
        ("", "unknown model ''"),
        ("leap(examples=x)@local", "only be given from Python"),
        ("re2&bon@", "unknown model ''"),
        ("re3&bon@local", "unknown technique 're3' in 're3&bon@local'; did you mean re2"),
        ("re2&bon(m=3)@local", "bon has no option 'm'"),
        ("re2&@local", "'re2&@local': a technique is missing beside '&'"),
        ("re2||bon@local", "a technique is missing beside '|'"),
        ("re2&()@local", "a technique is missing in the brackets"),
        ("(re2@)&bon@local", "a technique is missing beside '@'"),
        ("(re2@local)&bon@local", "'local' in .* is no technique; only the end of a spec names a model"),
        ("(re2@lab/x)&bon@local", "'lab/x' in .* is no technique"),
        ("re2&bon", "'re2&bon' names no model; write re2&bon@MODEL"),
        ("(re2|bon)", "names no model"),
        ("(re2&bon@local", "a bracket or quote has no partner"),
        ("re2)&bon@local", "a bracket or quote has no partner"),
        ("best_of_n(n=2@local", "a bracket or quote has no partner"),
        ("two_turn(ask='a)@local", "a bracket or quote has no partner"),
    ],
)
def test_mistakes_are_named(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said) if said.count(".*") == 0 else said):
        open_model(spec, cache=None)


def test_a_base_named_twice_is_one_model(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("def f(request):\n    return 'Score: 3'\n")
    model = open_model("best_of_n(judge=scripted/s.py:f)@scripted/s.py:f")
    assert isinstance(model, Applied)
    assert len(list(bases(model))) == 1
    assert run(model("Q")).text == "Score: 3"


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("def answer(request):\n    return 'x'\n")
    with pytest.raises(UsageError, match="no anser; did you mean answer"):
        open_model("scripted/s.py:anser")


def test_a_changed_script_does_not_get_old_draws(tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / "s.py").write_text(f"def f(request):\n    return '{text}'\n")
        assert run(open_model("scripted/s.py:f")("Q")).text == text


def test_what_a_combined_spec_asks(tmp_path: Path) -> None:
    script = "def f(request):\n    return f'{len(request.messages)} turns. Score: 3'\n"
    (tmp_path / "s.py").write_text(script)
    (tmp_path / "j.py").write_text(script)
    model = open_model("re2&(bon(judge=scripted/j.py:f, n=2)|two_turn)@scripted/s.py:f")
    assert isinstance(model, Applied)
    assert sorted(repr(base) for base in bases(model)) == ["scripted/j.py:f", "scripted/s.py:f"]
    assert names(model) == ("scripted/s.py:f", "re_reading&(best_of_n(judge=scripted/j.py:f, n=2)|two_turn)")
    completion = run(model("Q"))
    assert completion.text == "3 turns. Score: 3"
    assert [other.text for other in completion.alternatives] == ["3 turns. Score: 3"]
    assert completion.usage.calls == 5  # equal answers are judged once


def test_models_in_the_options_of_a_partial_are_known() -> None:
    model, judge = (scripted(lambda r: "x", name=name)[0] for name in ("a", "b"))
    judged = partial(best_of_n, judge=judge)
    for applied in (apply(judged, model), apply(pipeline, model, stages=[judged])):
        assert sorted(repr(base) for base in bases(applied)) == ["a", "b"]


def test_a_combination_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.py").write_text("def f(request):\n    return f'{len(request.messages)} turns'\n")
    with pytest.raises(SystemExit) as exit_:
        main(["ask", "Q?", "-m", "scripted/s.py:f", "-t", "re2|two_turn&re2"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == "1 turns\n"
