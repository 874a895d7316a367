"""Templates written by their steps: the same prompts and calls as when they are rendered."""

from typing import Any

import pytest
from tests.scripting import run, scripted

from shoal.errors import UsageError
from shoal.prompting.composing.jinja import JinjaPrompt
from shoal.prompting.composing.straight import StraightPrompt, is_straight
from shoal.prompting.composing.writing import Rendered
from shoal.runtime import registry
from shoal.runtime.program import parallel
from shoal.runtime.types import Request

STRAIGHT = [
    "Q: {{ q }}\nA: {{ generate_text(name='answer') }}",
    "  {{ q }}{{ q }}\n{% for hint in hints %}{{ hint }} {% endfor %}"
    "{{ generate_text(name='answer', max_tokens=most) }}!",
    "{% role system %}Be {{ tone }}.{% endrole %}{% role user %} {{ q }} {% endrole %}"
    "{% role assistant %}{{ generate_text(name='working') }}{% endrole %}"
    "{% if hints %}{% role user %}{{ hints[0] }}{% endrole %}{% endif %}"
    "{% role assistant %}{{ generate_text(name='answer', temperature=0.5) }}{% endrole %}",
    "{% section inner %}{{ q }}: {{ generate_text() }}{% endsection %}{% section hidden %}gone{% endsection %}"
    "{{ generate_text(name='answer') }}",
]
OTHERS = [
    "{% if q == 'a' %}A{% endif %}{{ generate_text(name='answer') }}",
    "{{ q|upper }}{{ generate_text(name='answer') }}",
    "{{ q ~ '!' }}{{ generate_text(name='answer') }}",
    "{{ generate_text(name='answer', stop=q) }}",
    "{{ q }}{{ generate_text(name='answer')|trim }}",
    "{{ q }}{% set x = generate_text(name='answer') %}{{ x }}",
    "{{ q }}{% if generate_text(name='answer') == 'yes' %}!{% endif %}",
    "{{ q }}{{ select(['yes', 'no'], name='answer') }}",
    "{{ q }}{{ hints|random }}{{ generate_text(name='answer') }}",
    "{% macro m() %}{{ q }}{% endmacro %}{{ m() }}{{ generate_text(name='answer') }}",
    "{{ q }}{{ row.text }}{{ generate_text(name='answer') }}",
]
SAME: dict[str, Any] = {"hints": ["Think.", "Check."], "tone": "brief", "most": 7}


def asked(prompt: JinjaPrompt | StraightPrompt, values: list[str]) -> tuple[list[Rendered], list[Request]]:
    model, backend = scripted(lambda request: f" reply to {request.text[-9:]} ")

    async def all_of_them() -> list[Rendered]:
        return await parallel(*(prompt.render(q=value, row={"text": value}, **SAME) for value in values))

    with registry.using(model):
        return run(all_of_them()), backend.requests


@pytest.mark.parametrize("text", STRAIGHT)
def test_a_straight_template_asks_and_writes_the_same(text: str) -> None:
    values = ["a", "  b\n", "", "{{ tone }} {% if %}", "a", "\ue000"]
    straight = StraightPrompt(JinjaPrompt(text), "q", passing=("row",))
    assert straight.straight
    assert asked(straight, values) == asked(JinjaPrompt(text), values)
    assert len(straight._courses) == 1


@pytest.mark.parametrize("text", OTHERS)
def test_any_other_template_is_rendered_anew(text: str) -> None:
    assert not is_straight(text, "q", ("row",))
    straight = StraightPrompt(JinjaPrompt(text), "q", passing=("row",))
    if "random" not in text and "select" not in text:  # chance, and a model that can rate
        assert asked(straight, ["a", "yes"]) == asked(JinjaPrompt(text), ["a", "yes"])


def test_other_inputs_have_a_course_of_their_own() -> None:
    prompt = StraightPrompt(JinjaPrompt("{{ tone }} {{ q }} {{ generate_text(name='answer') }}"), "q")
    model, backend = scripted(lambda _: "x")
    with registry.using(model):
        for tone in ("kind", "rude", "kind"):
            run(_rendered(prompt, q="?", tone=tone))
    assert [request.prompt or request.text for request in backend.requests] == ["kind ? ", "rude ? ", "kind ? "]


def test_what_is_missing_is_said_as_ever() -> None:
    with pytest.raises(UsageError, match="template, line 1: 'tone' is undefined"):
        run(_rendered(StraightPrompt(JinjaPrompt("{{ tone }}{{ q }}"), "q"), q="?"))


async def _rendered(prompt: StraightPrompt, **inputs: Any) -> Rendered:
    return await prompt.render(**inputs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for i in range(90000) %}{{ big }}{% endfor %}{{ q }}", "a prompt of more than"),
        ("{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}{{ q }}", "more than 100,000 turns"),
    ],
)
def test_a_template_without_bound_is_an_error_before_anything_is_asked(text: str, said: str) -> None:
    prompt = StraightPrompt(JinjaPrompt(text), "q")
    assert prompt.straight
    with pytest.raises(UsageError, match=said):
        run(prompt.render(q="a", big="x" * 5000))


def test_many_small_pieces_are_one_step() -> None:
    prompt = StraightPrompt(JinjaPrompt("{% for i in range(90000) %}" + "x" * 50 + "{% endfor %}{{ q }}"), "q")
    assert run(prompt.render(q="a")).text == "x" * 50 * 90_000 + "a"
