"""The question twice, in one call that streams; everything else as it was."""

from tests.scripting import answer_of, run, scripted

from shoal.runtime.model import apply, stream
from shoal.runtime.types import Delta, Json, Message, Request
from shoal.techniques.re_reading import re_reading

PICTURE = {"type": "image_url", "image_url": {"url": "data:x"}}


def test_the_question_is_put_as_in_the_paper() -> None:
    completion, backend = answer_of(re_reading, lambda r: "Paris.", "Where is {x}?")
    assert backend.requests[0].text == "Q: Where is {x}?\nRead the question again: Where is {x}?"
    assert (completion.text, completion.usage.calls, backend.batches) == ("Paris.", 1, [1])


def test_the_conversation_and_the_parameters_are_kept() -> None:
    turns = (Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    request = Request(turns, tools=(Json.of({"name": "f"}),)).with_params(choices=("x", "y"), max_tokens=3).draw(2)
    _, backend = answer_of(re_reading, lambda r: "x", request)
    (asked,) = backend.requests
    assert asked.messages[:-1] == turns[:-1]
    assert asked.text == "Q: c\nRead the question again: c"
    assert (asked.params, asked.tools, asked.sample) == (request.params, request.tools, (2,))


def test_images_are_shown_once_and_the_text_twice() -> None:
    content = Json.of([PICTURE, {"type": "text", "text": "What is this?"}])
    _, backend = answer_of(re_reading, lambda r: "x", Request((Message("user", content),)))
    asked = backend.requests[0].messages[0].content
    assert isinstance(asked, Json)
    assert asked.value()[:2] == content.value()
    assert asked.value()[2]["text"] == "Read the question again: What is this?"
    assert len(asked.value()) == 3


def test_the_result_of_a_tool_stays_last() -> None:
    turns = (
        Message("user", "How warm?"),
        Message("assistant", tool_calls=(Json.of({"id": "1"}),)),
        Message("tool", "21", tool_call_id="1"),
    )
    _, backend = answer_of(re_reading, lambda r: "x", Request(turns))
    assert backend.requests[0].messages[1:] == turns[1:]
    assert backend.requests[0].text == "Q: How warm?\nRead the question again: How warm?"


def test_bare_prompts_and_conversations_without_a_question() -> None:
    _, backend = answer_of(re_reading, lambda r: "x", Request(prompt="Why?"))
    assert backend.requests[0].prompt == "Q: Why?\nRead the question again: Why?"
    silent = Request((Message("system", "S"),))
    assert answer_of(re_reading, lambda r: "x", silent)[1].requests == [silent]


def test_it_streams() -> None:
    async def pieces() -> list[object]:
        model, _ = scripted(lambda r: "one two three")
        return [piece async for piece in stream(apply(re_reading, model), Request.of("Q?"))]

    assert [piece.text for piece in run(pieces()) if isinstance(piece, Delta)] == ["one ", "two ", "three"]
