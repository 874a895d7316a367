"""Gaps are filled once, every other brace is text, and the prompts that ship are whole."""

from importlib.resources import files

import pytest

from shoal.errors import UsageError
from shoal.prompting.messages import parse_messages
from shoal.prompting.template import Template, prompt
from shoal.runtime.types import Json, Message


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Q: {q}", "Q: {a}"),
        ('{"a": 1, "b": {q}}', '{"a": 1, "b": {a}}'),
        ("{} { q } {0} {q", "{} { q } {0} {q"),
        ("{{q}} and {q}", "{q} and {a}"),
        (r"\frac{1}{2} of {n}", r"\frac{1}{2} of 7"),
        ("{none}|{n}", "|7"),
    ],
)
def test_fill(text: str, filled: str) -> None:
    assert Template(text).fill({"q": "{a}", "a": "never", "n": 7, "none": None}) == filled


def test_a_missing_value_is_named() -> None:
    with pytest.raises(UsageError, match=r"names \{qestion\}, which is not there; did you mean question\?"):
        Template("{qestion}").fill({"question": "x"})


@pytest.mark.parametrize("file", sorted(f.name for f in files("shoal.prompting").joinpath("library").iterdir()))
def test_library(file: str) -> None:
    template = prompt(file.removesuffix(".md"))
    assert template.text  # some have no gaps: what they say is put after the conversation
    assert template.fill(dict.fromkeys(template.names, "x"))


def test_messages() -> None:
    parts = [{"type": "text", "text": "hi"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = parse_messages(
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
        ]
    )
    assert turns == (
        Message("system", "S"),
        Message("user", Json.of(parts)),
        Message("assistant", None, tool_calls=(Json.of(call),)),
        Message("tool", "4", tool_call_id="1"),
    )
    assert parse_messages("hi") == (Message("user", "hi"),)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "non-empty list"),
        ({"role": "user"}, "non-empty list"),
        (["hi"], r"messages\[0\] is not an object"),
        ([{"role": "usr", "content": "x"}], r"messages\[0\]: role 'usr' is none of"),
        ([{"role": "user", "content": 3}], "content must be text or a list"),
    ],
)
def test_bad_messages_are_named(value: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_messages(value)
