"""Work is put on a conversation without losing any of it."""

import pytest

from shoal.runtime.types import Json, Message, Request
from shoal.techniques._conversation import with_system

PARTS = Json.of([{"type": "text", "text": "Be brief."}])


@pytest.mark.parametrize(
    ("first", "both"),
    [
        (Message("system", "Be brief."), Message("system", "Be brief.\n\nThink.")),
        (Message("developer", "Be brief."), Message("developer", "Be brief.\n\nThink.")),
        (Message("system", "Be brief.", name="house"), Message("system", "Be brief.\n\nThink.", name="house")),
        (Message("system", PARTS), Message("system", Json.of([*PARTS.value(), {"type": "text", "text": "Think."}]))),
        (Message("system", ""), Message("system", "Think.")),
    ],
)
def test_what_is_added_to_a_system_message_makes_no_second_one(first: Message, both: Message) -> None:
    question = Message("user", "Q?")
    assert with_system(Request((first, question)), "Think.").messages == (both, question)


def test_a_system_message_is_made_where_there_is_none() -> None:
    question = Message("user", "Q?")
    assert with_system(Request((question,)), "Think.").messages == (Message("system", "Think."), question)
    assert with_system(Request(), "Think.").messages == (Message("system", "Think."),)
