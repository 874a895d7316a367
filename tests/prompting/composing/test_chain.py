"""Prompts put together with +."""

from typing import Any

import pytest
from tests.prompting.composing.test_jinja import asked, counting
from tests.prompting.llm.test_text import able
from tests.scripting import run, scripted

import shoal
from shoal import c, llm
from shoal.errors import UsageError


def test_a_chain_asks_with_the_text_before_each_call() -> None:
    model, backend = counting()
    prompt = "City? " + c.generate_text(stop="\n") + c.store("city") + " Mayor? " + c.generate_text(name="mayor")
    for first in (1, 3):
        result = shoal.run(prompt, model=model)
        assert result.text == f"City? <{first}> Mayor? <{first + 1}>"
        assert result.outputs == {"city": f"<{first}>", "mayor": f"<{first + 1}>"}
    assert asked(backend)[:2] == ["City? ", "City? <1> Mayor? "]


def test_a_template_in_a_chain_sees_the_text_before_it() -> None:
    model, backend = counting()
    prompt = (
        "A " + c.generate_text(name="a") + c.j("{{ a }}{{ b }} {{ generate_text() }}", b="!") + c.f(" {a} {x}", x=3)
    )
    assert shoal.run(prompt, model=model).text == "A <1><1>! <2> <1> 3"
    assert asked(backend)[1] == "A <1><1>! "


def test_braces_in_plain_text_are_text_and_a_gap_needs_a_value() -> None:
    assert shoal.run('{"a": {b}}' + c.text("{x}")).text == '{"a": {b}}{x}'
    with pytest.raises(UsageError, match=r"the template names \{nope\}"):
        shoal.run(c.f("{nope}"))


def test_sections_roles_and_selection() -> None:
    model, backend = able(lambda request: request.params.choices[0] if request.params.choices else "said", choices=True)
    prompt = (
        c.role("system", "Brief.")
        + c.role("user", "Which? " + c.section("secret", "s", hidden=True))
        + c.role("assistant", c.select(["x", "y"], name="choice"))
        + c.role("user", "Why?")
        + c.role("assistant", c.chat())
    )
    result = shoal.run(prompt, model=model)
    assert [m.text for m in result.messages] == ["Brief.", "Which?", "x", "Why?", "said"]
    assert result.outputs == {"s": "secret", "choice": "x"}
    assert len(backend.requests[1].messages) == 4
    assert shoal.run(c.instruct() + c.generate_object(str), model=scripted(lambda r: '{"value": "v"}')[0]).text


def test_a_chain_and_a_call_that_ask_the_same_share_the_draw() -> None:
    model, backend = counting()
    chained, called = shoal.run(shoal.parallel("q " + c.generate_text(), llm.generate_text("q ")), model=model)
    assert (chained.text, called, len(backend.requests)) == ("q <1>", "<1>", 1)


def test_chains_are_programs() -> None:
    model, _ = scripted(lambda request: f"{list(request.sample)}")
    prompt = "q " + c.generate_text()
    drawn = shoal.run(shoal.repeat(prompt, 2), model=model)
    assert [result.text for result in drawn] == ["q [0]", "q [1]"]
    assert shoal.run((prompt + prompt).dry_run(reply="r"), model=model).text == "q rq r"
    with pytest.raises(TypeError):
        prompt + 3  # type: ignore[operator]


def test_a_chain_streams_as_it_grows() -> None:
    model, _ = scripted(lambda request: "a b")

    async def main() -> list[Any]:
        with shoal.using(model):
            return [piece async for piece in shoal.stream("Q " + c.generate_text() + ".")]

    pieces = run(main())
    assert [piece.text for piece in pieces[:-1]] == ["Q ", "a ", "b", "."]
    assert pieces[-1].result.text == "Q a b."


def test_scores_choose() -> None:
    from tests.prompting.llm.test_choosing import scoring

    assert shoal.run("q" + c.choose([" yes", " no"], name="one"), model=scoring())["one"] == " no"
    assert shoal.run("q" + c.choose([" yes", " no"], top_k=2), model=scoring()).text == 'q[" no"," yes"]'
