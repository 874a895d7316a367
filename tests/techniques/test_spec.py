"""The grammar of model specs, and one line for each way to get it wrong."""

from pathlib import Path

import pytest
from tests.scripting import run, scripted

from shoal.errors import UsageError
from shoal.runtime.model import Applied, Model
from shoal.techniques.opening import bases, open_model
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
    ],
)
def test_specs(spec: str, shown: str) -> None:
    assert repr(parsed(spec)[0]) == shown


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("self_consistancy@local", "unknown technique 'self_consistancy' .* did you mean self_consistency"),
        ("best_of_n(m=3)@local", "best_of_n has no option 'm'"),
        ("best_of_n(jugde=local)@local", "did you mean judge"),
        ("best_of_n(n=three)@local", "'three' is not a whole number"),
        ("best_of_n(3)@local", "'3' should be option=value"),
        ("self_consistency(similarity=f)@local", "only be given from Python"),
        ("locale", "unknown model 'locale'; did you mean local"),
        ("opanai/gpt", "unknown model 'opanai/gpt'; did you mean openai"),
        ("openai", "expected openai/MODEL"),
        ("openai/gpt-x", "needs OPENAI_API_KEY"),
        ("gguf/", "expected gguf/PATH"),
        ("scripted/nowhere.py:f", "no file nowhere.py"),
        ("", "unknown model ''"),
    ],
)
def test_mistakes_are_named(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
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
