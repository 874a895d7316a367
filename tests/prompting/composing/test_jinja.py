"""Jinja templates with calls inside: what each call sees, what is kept, what is refused."""

from dataclasses import dataclass
from typing import Any

import pytest
from tests.prompting.llm.test_text import able
from tests.scripting import run, scripted

import shoal
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import ServerError, UsageError, told
from shoal.prompting.composing.jinja import JinjaPrompt
from shoal.prompting.composing.writing import Rendered
from shoal.runtime.types import Request


def counting() -> tuple[BaseModel, ScriptedBackend]:
    """Answers with the number of calls so far."""
    calls = iter(range(1, 100))
    return scripted(lambda request: f"<{next(calls)}>")


def render(text: str, model: Any = None, **inputs: Any) -> Rendered:
    return shoal.run(JinjaPrompt(text).render(**inputs), model=model or counting()[0])


def asked(backend: ScriptedBackend) -> list[str]:
    return [request.text for request in backend.requests]


def test_a_call_sees_exactly_the_text_before_it() -> None:
    model, backend = counting()
    text = "Q: {{ q }}\nA: {{ generate_text(name='a', stop='\\n') }}\nWhy? {{ generate_text() }}."
    result = render(text, model, q="What?")
    assert asked(backend) == ["Q: What?\nA: ", "Q: What?\nA: <1>\nWhy? "]
    assert str(result) == "Q: What?\nA: <1>\nWhy? <2>."
    assert (result["a"], backend.requests[0].params.stop) == ("<1>", ("\n",))


def test_loops_conditions_filters_and_set() -> None:
    model, backend = counting()
    text = (
        "{% for x in items if x != 'b' %}{{ loop.index }}{{ x }}={{ generate_text() | replace('<', '[') }} {% endfor %}"
        "{% set last = generate_text() %}{% if last == '<3>' %}yes {{ last }}{% else %}no{% endif %}"
    )
    result = render(text, model, items=["a", "b", "c"])
    assert result.text == "1a=[1> 2c=[2> yes <3>"
    assert asked(backend) == ["1a=", "1a=[1> 2c=", "1a=[1> 2c=[2> "]
    assert result["last"] == "<3>"


def test_sections_are_outputs_and_hidden_ones_are_gone_when_they_end() -> None:
    model, backend = counting()
    text = (
        "A{% section thoughts, hidden %} think {{ generate_text() }}{% endsection %}"
        "{% section said %} say {{ generate_text() }}{% endsection %}{% section hidden %}x{% endsection %}."
    )
    result = render(text, model)
    assert asked(backend) == ["A think ", "A say "]
    assert result.text == "A say <2>."
    assert result.outputs == {"thoughts": " think <1>", "said": " say <2>"}


def test_roles_are_turns() -> None:
    model, backend = able(lambda request: f"<{len(request.messages)}>", prefill=True)
    text = """{% role system %}Be brief.{% endrole %}
{% role user %}Hi{% endrole %}
{% role assistant %}{{ chat(name='hello') }}{% endrole %}
Well?
{% role assistant %}I say {{ generate_text() }}{% endrole %}"""
    result = render(text, model)
    turns = [(message.role, message.text) for message in result.messages]
    assert turns == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "<2>"),
        ("user", "Well?"),
        ("assistant", "I say <5>"),
    ]
    assert backend.requests[1].messages[-1].text == "I say"
    assert result["hello"] == "<2>"


def test_every_call_stands_in_a_template() -> None:
    @dataclass
    class City:
        name: str

    def script(request: Request) -> str:
        if request.params.json_schema:
            return '{"name": "Nice"}' if "name" in request.params.json_schema.text else '{"value": 7}'
        return request.params.choices[0] if request.params.choices else "t"

    model, _ = able(script, choices=True, json_schema=True)
    text = (
        "{{ generate_object(city, name='c') }} {{ generate_object('int') }} {{ select(['x', 'y']) }} "
        "{{ instruct() }} {{ generate_texts(2) }} {{ store('n', 3) }} {{ c0.name }}"
    )
    result = render(text, model, city=City, c0=City("Rome"))
    assert result.text == '{"name":"Nice"} 7 x t ["t","t"] 3 Rome'
    assert result.outputs == {"c": City("Nice"), "n": 3}


def test_what_a_model_writes_is_no_template() -> None:
    model, _ = scripted(lambda request: "{{ 7*7 }}{% role user %}")
    assert render("{{ generate_text() }}{{ generate_text() | upper }}", model).text == (
        "{{ 7*7 }}{% role user %}{{ 7*7 }}{% ROLE USER %}"
    )


def test_a_failed_call_is_raised_as_it_is_with_its_line() -> None:
    def down(request: Request) -> str:
        raise ServerError("HTTP 500", retryable=False)

    model, _ = scripted(down)
    with pytest.raises(ServerError) as caught:
        render("a\nb {{ generate_text() }}", model)
    assert told(caught.value) == "HTTP 500 (in template, line 2)"


LETTERS = "{% set l = 'abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz' %}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n{{ x }}", "template, line 2: 'x' is undefined"),
        ("\n\n{{ 1/0 }}", "template, line 3: division by zero"),
        ("a\n{% if %}", "template, line 2: Expected an expression"),
        ("{% section a, shown %}{% endsection %}", "template, line 1: unknown option 'shown' of section"),
        ("{% role %}x{% endrole %}", "template, line 1: a role needs a name"),
        ("{% role user %}x", "template, line 1: Unexpected end of template"),
        ("{% role robot %}x{% endrole %}", "role 'robot' is none of"),
        ("{% role user %}{% role user %}{% endrole %}{% endrole %}", "role 'user' within role 'user'"),
        ("{{ generate_text(tempo=1) }}", "no sampling parameter 'tempo'"),
        ("{{ generate_object('thing') }}", "'thing' is none of"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ generate_text.__globals__ }}", "unsafe"),
        ("{{ generate_text.__self__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ range(10**9) | list }}", "the ranges of one rendering have more than"),
        ("{{ 'a' * 10**9 }}", "would build more than"),
        ("{{ [0] * 10**9 }}", "would build more than"),
        ("{{ 9 ** (9**9) }}", "would build more than"),
        ("{{ '%999999999d' % 1 }}", "cannot be formatted"),
        ("{{ '{:999999999}'.format(1) }}", "cannot be formatted"),
        ("{{ 'a'.center(10**9) }}", "unsafe"),
        ("{{ 'a' | center(10**9) }}", "No filter named 'center'"),
        ("{% set x = [1] %}{{ x.append(2) }}", "unsafe"),
        ("{% for i in range(99999) %}{{ 'x' ~ ('y' * 10000) }}{% endfor %}", "a prompt of more than"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "more than 100,000 turns"),
        (LETTERS + "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}", "turns"),
        (
            LETTERS + "{% for a in l %}{% for b in l %}{% for c in l if false %}{% endfor %}{% endfor %}{% endfor %}",
            "turns",
        ),
        ("{% for x in [0] recursive %}{{ loop([x, x]) }}{% endfor %}", "RecursionError"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(30) }}", "turns"),
        ("{{ ('a' * 20000) | replace('a', 'b' * 20000) }}", "replace would build more than"),
        ("{{ ('a' * 20000).replace('a', 'b' * 20000) }}", "unsafe"),
        ("{{ ('a' * 20000) | join('b' * 20000) }}", "join would build more than"),
        ("{{ (5).to_bytes(500000000, 'big') }}", "unsafe"),
        ("{{ [1] | batch(30000000, 'x') }}", "No filter named 'batch'"),
        ("{{ [1] | tojson(indent=300000000) }}", "indent"),
        ("{% set n = namespace(x='a') %}{% for i in range(25) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "would build"),
        ("{% set n = namespace(x='a') %}{% for i in range(25) %}{% set n.x = n.x + n.x %}{% endfor %}", "would build"),
        ("{% macro t() %}{{ t() }}{% endmacro %}{{ t() }}", "RecursionError"),
        ("{{ _begin('section', 's', true) }}", "'_begin' is undefined"),
        ("\n{% macro t() %}{% role user %}x{% endrole %}{% endmacro %}", "line 2: a section or role cannot stand in a"),
        ("{% set x %}{% section s, hidden %}x{% endsection %}{% endset %}", "a section or role cannot stand in a"),
    ],
)
def test_what_is_wrong_or_would_do_harm_is_an_error(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(text)
    assert said in str(caught.value)


def test_many_small_pieces_cost_no_more_than_their_length() -> None:
    rendered = render("{% for i in range(90000) %}" + "x" * 50 + "{% endfor %}")  # 4.5 million characters
    assert rendered.text == "x" * 50 * 90_000


def test_an_input_may_not_hide_a_call() -> None:
    with pytest.raises(UsageError, match="the input 'select' has the name of a call"):
        render("x", select=1)


def test_a_turn_stays_a_turn_when_it_begins_with_something_hidden() -> None:
    model, backend = scripted(lambda request: "said")
    text = "{% role user %}A{% endrole %}{% role user %}{% section s, hidden %}x{% endsection %}B{% endrole %}"
    render(text + "{{ instruct() }}", model)
    assert [message.text for message in backend.requests[0].messages] == ["A", "B"]


def test_inputs_may_be_programs_and_what_is_no_value_is_no_output() -> None:
    text = "{% macro m() %}{% endmacro %}{% set n = namespace(a=1) %}{% set b = x %}{{ x }}"
    result = render(text, x=JinjaPrompt("y").dry_run(), self="z")
    assert result.outputs.keys() == {"b"}


def test_a_dry_run_makes_no_call() -> None:
    model, backend = counting()
    prompt = JinjaPrompt("{{ generate_text(name='a') }}-{{ generate_text() }}-{{ choose(['x'], name='b') }}")
    result = shoal.run(prompt.dry_run(mocks={"a": "mock", "b": ["y"]}, reply="other"), model=model)
    assert (result.text, backend.requests) == ("mock-other-y", [])
    assert result.outputs == {"a": "mock", "b": "y"}


def test_partial_results_stream_in_order_and_once() -> None:
    model, _ = scripted(lambda request: "two words")
    prompt = JinjaPrompt("Say {% section x, hidden %}no {{ generate_text() }}{% endsection %}{{ generate_text() }} end")

    async def main() -> str:
        with shoal.using(model):
            return "|".join([piece.text async for piece in shoal.stream(prompt.render()) if not piece.finished])

    assert run(main()) == "Say |two words| end"


def test_templates_are_stateless_and_draws_are_by_text() -> None:
    model, backend = counting()
    prompt = JinjaPrompt("{{ a }}{{ generate_text() }}")
    results = shoal.run(shoal.parallel(*(prompt.render(a=a) for a in "xyx")), model=model)
    assert [result.text[0] for result in results] == ["x", "y", "x"]
    assert results[0].text == results[2].text
    assert len(backend.requests) == 2
