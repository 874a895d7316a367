"""Thinking, reflection and answer in one reply: the answer is the text, however the tags are written."""

import pytest
from tests.scripting import answer_of

from shoal.errors import ServerError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.cot_reflection import cot_reflection

PICTURE = {"type": "image_url", "image_url": {"url": "data:x"}}


def replied(text: str, finish_reason: str = "stop") -> Completion:
    return answer_of(cot_reflection, lambda r: Completion(text, finish_reason))[0]


def test_the_output_is_the_text_and_the_thinking_the_reasoning() -> None:
    says = (
        "<thinking>\n2 + 2 = 5\n<reflection>No, 4.</reflection>\n</thinking>\n<output>\nIt is **4**.\n</output>\nBye."
    )
    completion, backend = answer_of(cot_reflection, lambda r: says)
    assert completion.text == "It is **4**."
    assert completion.reasoning == "2 + 2 = 5\n<reflection>No, 4.</reflection>"
    assert (backend.batches, completion.usage.calls, completion.finish_reason) == ([1], 1, "stop")


@pytest.mark.parametrize(
    ("reply", "text", "reasoning"),
    [
        ("<thinking>a</thinking><output>b", "b", "a"),
        ("<thinking>a <output>b</output>", "b", "a"),
        ("<THINKING>a</Thinking> <Output>b</OUTPUT>", "b", "a"),
        ("a</thinking>\n<output>b</output>", "b", "a"),
        ("<thinking>a</thinking>\nb", "b", "a"),
        ("<thinking>I write in <output> later.</thinking><output>b</output>", "b", "I write in <output> later."),
        ("<thinking>a</thinking><output>Use <output>x</output> tags.</output>", "Use <output>x</output> tags.", "a"),
        ("Use the <output> element.", "Use the <output> element.", None),
        ("Write <output>x</output> in it.", "Write <output>x</output> in it.", None),
        ("Sure.\n<output>\nb\n</output>", "b", "Sure."),
        ("<thinking>First <output> is far. <output>b", "b", "First <output> is far."),
        ("b", "b", None),
        ("<output>b</output>", "b", None),
        ("", "", None),
    ],
)
def test_tags_that_are_not_closed_or_missing(reply: str, text: str, reasoning: str | None) -> None:
    completion = replied(reply)
    assert (completion.text, completion.reasoning, completion.usage.calls) == (text, reasoning, 1)


def test_a_reply_cut_off_while_thinking_has_no_text_and_says_length() -> None:
    completion = replied("<thinking>If the answer is 5, then", "length")
    assert (completion.text, completion.finish_reason, completion.answer) == ("", "length", None)
    assert completion.reasoning == "If the answer is 5, then"
    assert completion.usage.calls == 1


def test_a_reply_cut_off_in_its_output_is_returned_as_far_as_it_goes() -> None:
    completion = replied("<thinking>a</thinking><output>It is for", "length")
    assert (completion.text, completion.finish_reason) == ("It is for", "length")


def test_what_is_cut_off_behind_the_output_is_not_missed() -> None:
    completion = replied("<thinking>a</thinking><output>4</output> As I sa", "length")
    assert (completion.text, completion.finish_reason) == ("4", "stop")


def test_a_reply_that_ends_without_an_answer_has_it_written_from_the_thinking() -> None:
    def script(request: Request) -> str:
        return "It is 4." if "<steps>" in request.text else "<thinking>2 + 2 is 4.</thinking>"

    completion, backend = answer_of(cot_reflection, script)
    assert (completion.text, completion.reasoning, backend.batches) == ("It is 4.", "2 + 2 is 4.", [1, 1])
    assert "2 + 2 is 4." in backend.requests[1].text
    assert completion.usage.calls == 2


def test_the_conversation_and_the_parameters_are_kept() -> None:
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([PICTURE, {"type": "text", "text": "Q?"}])),
    )
    request = Request(turns).with_params(temperature=0.3, max_tokens=50, seed=1).draw(4)
    _, backend = answer_of(cot_reflection, lambda r: "<output>b</output>", request)
    (asked,) = backend.requests
    assert asked.messages[1:] == turns[1:]
    assert str(asked.messages[0].content).startswith("Be kind.\n\n")
    assert (asked.params, asked.sample) == (request.params, (4,))


FORMS = (
    Request.of("Q?", json_schema={"type": "object"}),
    Request.of("Q?", choices=["yes", "no"], max_tokens=2),
    Request.of("Q?", regex="[0-9]+"),
    Request.of("Q?", stop="\n", logprobs=True),
    Request(Request.of("Q?").messages, tools=(Json.of({"name": "f"}),)),
)


@pytest.mark.parametrize("request_", FORMS)
def test_a_form_is_for_the_answer_alone_and_takes_a_second_call(request_: Request) -> None:
    says = "<thinking>It is so.</thinking><output>yes</output>"
    completion, backend = answer_of(cot_reflection, lambda r: "yes" if "<steps>" in r.text else says, request_)
    thinking, answering = backend.requests
    assert (thinking.params, thinking.tools) == (Request.of("Q?").params, ())
    assert (answering.params, answering.tools) == (request_.params, request_.tools)
    assert "It is so." in answering.text
    assert answering.text.startswith("Q?")
    assert (completion.text, completion.reasoning, completion.usage.calls) == ("yes", says, 2)


def test_a_call_of_a_tool_is_an_answer() -> None:
    call = Json.of({"function": {"name": "f"}})

    def script(request: Request) -> Completion:
        return Completion("", "tool_calls", tool_calls=(call,)) if request.tools else Completion("I need f.")

    completion, _ = answer_of(cot_reflection, script, FORMS[-1])
    assert (completion.tool_calls, completion.finish_reason) == ((call,), "tool_calls")


def test_a_bare_prompt_is_kept_at_the_end() -> None:
    _, backend = answer_of(cot_reflection, lambda r: "<output>b</output>", Request(prompt="Q: Why? A:"))
    assert str(backend.requests[0].prompt).endswith("\n\nQ: Why? A:")


def test_a_failure_is_raised_as_itself() -> None:
    def script(request: Request) -> str:
        raise ServerError("down", retryable=False)

    with pytest.raises(ServerError, match="down"):
        answer_of(cot_reflection, script)
