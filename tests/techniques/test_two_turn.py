"""The answer in full, then the answer alone in a second turn."""

from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.backends.scripted import Script
from shoal.errors import ServerError, UsageError
from shoal.runtime.model import apply, stream
from shoal.runtime.types import Completion, Delta, Json, Message, Request
from shoal.techniques.two_turn import two_turn


def in_two(first: str | Completion, second: str | Completion) -> Script:
    return lambda request: second if any(m.role == "assistant" for m in request.messages[-2:]) else first


def test_the_text_is_the_first_reply_and_the_answer_the_second() -> None:
    completion, backend = answer_of(two_turn, in_two("Six times seven: forty-two.", "42"), "6 x 7?")
    assert (completion.text, completion.answer) == ("Six times seven: forty-two.", "42")
    assert (backend.batches, completion.usage.calls) == ([1, 1], 2)
    assert completion.usage.completion_tokens == 5
    asked = backend.requests[1].messages
    assert [m.role for m in asked] == ["user", "assistant", "user"]
    assert (asked[0].content, asked[1].content) == ("6 x 7?", "Six times seven: forty-two.")
    assert "answer alone" in str(asked[2].content)


@pytest.mark.parametrize(
    ("stated", "kind", "answer"),
    [
        (Completion("The answer is **42**."), "auto", "42"),
        (Completion("(B) Paris"), "choice", "B"),
        (Completion(r"\boxed{\frac{1}{2}}"), "auto", r"\frac{1}{2}"),
        (Completion("- ants\n- bees"), "auto", "- ants\n- bees"),
        (Completion("I cannot say."), "number", None),
        (Completion("Well, let us see: first we", "length"), "auto", None),
        (Completion("<think>5?</think>\nants\nbees"), "auto", "ants\nbees"),
        (Completion(""), "auto", None),
    ],
)
def test_what_counts_as_the_answer(stated: Completion, kind: str, answer: str | None) -> None:
    completion, _ = answer_of(two_turn, in_two("Long.", stated), kind=kind)
    assert (completion.text, completion.answer) == ("Long.", answer)


def test_the_words_of_the_second_turn_can_be_chosen() -> None:
    _, backend = answer_of(two_turn, lambda r: "x", ask="Only {the} number.")
    assert backend.requests[1].text == "Only {the} number."


def test_the_parameters_are_the_first_replys_and_its_end_is_told() -> None:
    request = Request.of("Q?", system="S", temperature=0.5, max_tokens=3).draw(1)
    script = in_two(Completion("It is so that", "length"), "so")
    completion, backend = answer_of(two_turn, script, request)
    assert completion.finish_reason == "length"
    assert backend.requests[0] == request
    second = backend.requests[1]
    assert (second.params.temperature, second.params.max_tokens, second.sample) == (0.5, None, (1,))
    assert second.messages[0].content == "S"


def test_a_form_is_for_the_second_reply_which_is_then_the_text() -> None:
    request = Request.of("Q?", choices=["yes", "no"], temperature=0.2)
    completion, backend = answer_of(two_turn, in_two("Let me think: it is so.", "yes"), request)
    assert [bool(r.params.choices) for r in backend.requests] == [False, True]
    assert (completion.text, completion.reasoning, completion.usage.calls) == ("yes", "Let me think: it is so.", 2)
    tool = Json.of({"name": "f"})
    with_tools = Request((Message("user", "Q?"),), tools=(tool,))
    assert [r.tools for r in answer_of(two_turn, lambda r: "x", with_tools)[1].requests] == [(), (tool,)]


@pytest.mark.parametrize("params", [{}, {"stop": ("\n",)}])
@pytest.mark.parametrize("nothing", ["", Completion("", "length", reasoning="All was spent on thinking.")])
def test_a_first_reply_that_says_nothing_is_no_turn(nothing: Completion | str, params: dict[str, Any]) -> None:
    script = lambda r: "4" if "answer alone" in r.text else nothing  # noqa: E731
    completion, backend = answer_of(two_turn, script, Request.of("2 + 2?", **params))
    assert [message.role for message in backend.requests[1].messages] == ["user"]
    assert backend.requests[1].text.startswith("2 + 2?\n\nNow give the answer alone")
    assert (completion.text, completion.answer) == (("4", None) if params else ("", "4"))


def test_bare_prompts_are_continued() -> None:
    _, backend = answer_of(two_turn, lambda r: "so", Request(prompt="Why? "), ask="In short?")
    assert backend.requests[1].prompt == "Why? so\n\nIn short?\n\n"


def test_the_first_reply_streams() -> None:
    async def pieces() -> list[object]:
        model, _ = scripted(in_two("one two", "three"))
        return [piece async for piece in stream(apply(two_turn, model), Request.of("Q?"))]

    *deltas, last = run(pieces())
    assert [piece.text for piece in deltas if isinstance(piece, Delta)] == ["one ", "two"]
    assert isinstance(last, Completion)
    assert (last.text, last.answer) == ("one two", "three")


def test_mistakes_and_failures() -> None:
    with pytest.raises(UsageError, match="two_turn: kind='numbr'; did you mean number"):
        answer_of(two_turn, lambda r: "x", kind="numbr")

    def script(request: Request) -> str:
        if len(request.messages) > 1:
            raise ServerError("down", retryable=False)
        return "x"

    with pytest.raises(ServerError, match="down"):
        answer_of(two_turn, script)
