"""Prompts as models write them: numbered, quoted, labelled, empty, endless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.evolution.replies import LONGEST, cleaned, first_listed


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        (" Do it. \n", "Do it."),
        ("", ""),
        (" \n\t ", ""),
        ('""', ""),
        ("<think>\nWhat would help?\n</think>\n\nDo it.", "Do it."),
        ("What would help?</think>Do it.", "Do it."),
        ("<think>What would help", ""),
        ("Think in <think> and </think>, then answer.", "Think in <think> and </think>, then answer."),
        ("```\nDo it.\n```", "Do it."),
        ("```text\nDo it.\nThen stop.\n```", "Do it.\nThen stop."),
        ('Sure! Here is an improved instruction:\n\n"Do it."', "Do it."),
        ("Here's the mutated instruction: Do it.", "Do it."),
        ("Here is a problem: solve it.", "Here is a problem: solve it."),
        ('"Do it."', "Do it."),
        ("“Do it.”", "Do it."),
        ('"Do" or "do not".', '"Do" or "do not".'),
        ('"One" and "two"', '"One" and "two"'),
        ("'Do it.'", "Do it."),
        ("1. Do it.", "Do it."),
        ("1.", ""),
        ("- Do it.", "Do it."),
        ("1.5 litres are enough.", "1.5 litres are enough."),
        ("1. Read.\n2. Think.\n3. Answer.", "1. Read.\n2. Think.\n3. Answer."),
        ("INSTRUCTION MUTANT: Do it.", "Do it."),
        ("**INSTRUCTION MUTANT:** Do it.", "Do it."),
        ('INSTRUCTION MUTANT: "Do it."', "Do it."),
        ("INSTRUCTION: Old. INSTRUCTION MUTANT: Do it.", "Do it."),
        ("INSTRUCTION: Old.\nINSTRUCTION MUTANT:\nDo it.", "Do it."),
        ("Sure, here it is:\n\nINSTRUCTION MUTANT: Do it.", "Do it."),
        ("Do it.\nINSTRUCTION MUTANT: Do it again.\nINSTRUCTION MUTANT: And", "Do it."),
        ("Do it.\nINSTRUCTION: Something else", "Do it."),
        ("INSTRUCTION: Do it.", "Do it."),
        ("INSTRUCTION MUTANT:", ""),
        ('The instruction was: "Do it."', "Do it."),
        ("**The instruction was:** Do it.", "Do it."),
        ("Follow the INSTRUCTION: read it.", "Follow the INSTRUCTION: read it."),
        ("Do\x1b[2J \x00it.", "Do[2J it."),
        ("Do \ud800 it.", "Do ? it."),
        ("{{ 7*7 }}", "{{ 7*7 }}"),
        ("x" * 9000, "x" * LONGEST),
    ],
)
def test_the_prompt_in_a_reply(reply: str, prompt: str) -> None:
    assert cleaned(reply) == prompt


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        (" Do it.\n5. Do more.\n6. ", "Do it."),
        ("Do it.", "Do it."),
        ("4. Do it.\n5. Do more.", "Do it."),
        ("<think>\n4. Old one.\n</think>\n4. Do it.", "Do it."),
        ("1. Old one.\n2. Old two.\n3. Old three.\n4. Do it.\n5. Do more.", "Do it."),
        ("Here is the rest:\n\n4. Do it.\n5. Do more.", "Do it."),
        ("Here are some hints:\n\n1. Do it.\n2. Do more.", "Do it."),
        ("Here are some hints:\n- Do it.\n- Do more.", "Do it."),
        ("Here it is:\nDo it.\nMore.", "Do it."),
        ("4. Do\n   it.\n\nI hope this helps.", "Do it."),
        ('4. "Do it."', "Do it."),
        ("**INSTRUCTION MUTANT:** Do it.", "Do it."),
        ("", ""),
        ("4. ", ""),
        ("\n\n", ""),
        ("Think:", "Think:"),
        ("y" * 9000, "y" * LONGEST),
    ],
)
def test_the_next_item_of_a_list(reply: str, prompt: str) -> None:
    assert first_listed(reply, 4) == prompt


@given(st.text(st.characters() | st.sampled_from("1.\n-\"'INSTRUCTION MUTANT: "), max_size=200), st.integers(1, 60))
def test_whatever_comes_is_a_prompt_that_can_be_kept(reply: str, number: int) -> None:
    for prompt in (cleaned(reply), first_listed(reply, number)):
        prompt.encode("utf-8")
        assert prompt == prompt.strip()
        assert len(prompt) <= LONGEST
        assert "\x1b" not in prompt


def test_long_replies_are_read_in_linear_time() -> None:
    for piece in (
        "INSTRUCTION",
        "INSTRUCTION*",
        "INSTRUCTION: ",
        "\n",
        "*",
        "* ",
        "```\n",
        "<think>",
        "a</think>",
        "Sure, here is ",
        "1. ",
        "1.\n",
        " \n",
        '"',
    ):
        text = piece * 50_000
        cleaned(text)
        first_listed(text, 2)
