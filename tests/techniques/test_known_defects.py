"""What went wrong in earlier programs of this kind, and goes right here."""

from functools import partial
from typing import Any

import pytest
from tests.scripting import answer_of, scripted

from shoal.backends.scripted import Script
from shoal.errors import UsageError
from shoal.runtime.model import Technique
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.combining import pipeline, side_by_side
from shoal.techniques.cot_reflection import cot_reflection
from shoal.techniques.critique import critique
from shoal.techniques.learning_principles import learning_principles
from shoal.techniques.re_reading import re_reading
from shoal.techniques.spec import parse_spec
from shoal.techniques.two_turn import two_turn

# -- cot_reflection


def test_cot_reflection_a_reply_without_any_text_is_no_crash() -> None:
    completion, _ = answer_of(cot_reflection, lambda r: Completion("", "length"))
    assert (completion.text, completion.finish_reason) == ("", "length")


def test_cot_reflection_thoughts_do_not_stand_in_the_answer() -> None:
    completion, _ = answer_of(cot_reflection, lambda r: "<thinking>5? No.</thinking> <output>4")
    assert completion.text == "4"


# -- learning_principles


def _leap_script(attempt: Completion) -> Script:
    return lambda r: attempt if "step by step. End with" in r.text else Completion("x")


@pytest.mark.parametrize("wording", ["The answer is **4**.", r"\boxed{4}", "2 + 2 = 4, so the answer is 4.0", "#### 4"])
def test_leap_another_wording_of_the_right_answer_is_no_mistake(wording: str) -> None:
    script = _leap_script(Completion(wording))
    _, backend = answer_of(learning_principles, script, "Q?", examples=[("2 + 2?", "Four, so 4.")], kind="number")
    assert backend.batches == [3, 1]


def test_leap_a_truncated_reply_is_no_error() -> None:
    script = _leap_script(Completion("Let us see: 2", "length"))
    completion, _ = answer_of(learning_principles, script, "Q?", examples=[("2 + 2?", "4")])
    assert (completion.text, completion.finish_reason) == ("x", "stop")


def test_leap_mistakes_are_learned_from_at_once() -> None:
    script = _leap_script(Completion("The answer is 5."))
    examples = [(f"{i} + {4 - i}?", "4") for i in range(5)]
    _, backend = answer_of(learning_principles, script, "Q?", examples=examples)
    assert backend.batches == [15, 15, 1, 1]


# -- re_reading


def test_re2_one_question_is_one_call_whatever_else_is_asked_for() -> None:
    request = Request.of("Q?", temperature=0.0, max_tokens=7, seed=3, stop="\n").draw(5)
    _, backend = answer_of(re_reading, lambda r: "x", request)
    assert [(r.params, r.sample) for r in backend.requests] == [(request.params, (5,))]


# -- combinations


def test_combined_a_pipeline_does_not_lose_the_question() -> None:
    _, backend = answer_of(pipeline, lambda r: "said", "Why is it so?", stages=[two_turn, re_reading])
    assert all("Why is it so?" in r.messages[0].text for r in backend.requests)
    assert backend.requests[-1].text.count("Why is it so?") == 2


def test_combined_a_list_of_answers_is_not_sent_as_text() -> None:
    stages = [partial(side_by_side, stages=[re_reading, two_turn]), re_reading]
    _, backend = answer_of(pipeline, lambda r: "said", stages=stages)
    assert [m.content for m in backend.requests[-1].messages][1] == "said"


def test_combined_signs_can_be_mixed_and_every_name_is_checked() -> None:
    def base(name: str) -> Any:
        return scripted(lambda r: "x", name=name)[0]

    assert repr(parse_spec("re2|bon&moa@local", base)) == "re_reading|best_of_n&mixture_of_agents@local"
    with pytest.raises(UsageError, match="unknown technique 'plan'"):
        parse_spec("re2&plan@local", base)


# -- all of these

WITH_CALLS_BEFORE: list[tuple[Technique, dict[str, Any]]] = [
    (cot_reflection, {}),
    (re_reading, {}),
    (learning_principles, {"examples": (("1 + 1?", "2"),)}),
    (two_turn, {}),
    (critique, {}),
    (pipeline, {"stages": [re_reading, critique]}),
    (side_by_side, {"stages": [critique, two_turn]}),
]
each = pytest.mark.parametrize(("technique", "options"), WITH_CALLS_BEFORE)

TOOL_CALL = Json.of({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}})
CONVERSATION = Request(
    messages=(
        Message("system", "First rule."),
        Message("system", "Second rule."),
        Message(
            "user", Json.of([{"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "text", "text": "1?"}])
        ),
        Message("assistant", tool_calls=(TOOL_CALL,)),
        Message("tool", "21", tool_call_id="1"),
        Message("assistant", "It is 21."),
        Message("user", "And now?"),
    ),
)


@each
def test_text_that_looks_like_a_role_stays_in_the_answer(technique: Technique, options: dict[str, Any]) -> None:
    text = "Fill in the User: field, press Save. Assistant: is fine.\n\nThe answer is 12."
    assert answer_of(technique, lambda r: text, **options)[0].text == text


@each
def test_the_conversation_is_not_flattened(technique: Technique, options: dict[str, Any]) -> None:
    """The call that answers has every turn in its role: system messages, images, calls of tools and their results."""
    _, backend = answer_of(technique, lambda r: "The answer is 12.", CONVERSATION, **options)
    shown = [[(m.role, m.content, m.tool_calls) for m in request.messages] for request in backend.requests]
    wanted = [(m.role, m.content, m.tool_calls) for m in CONVERSATION.messages[1:-1]]
    assert any(turns[1:6] == wanted for turns in shown)
    answering = next(turns for turns in shown if turns[1:6] == wanted)
    assert str(answering[0][1]).startswith("First rule.")
    assert "And now?" in str(answering[6][1])


@each
def test_an_answer_that_was_cut_off_says_so(technique: Technique, options: dict[str, Any]) -> None:
    completion, _ = answer_of(technique, lambda r: Completion("It is so that", "length"), **options)
    assert completion.finish_reason == "length"


def _called(request: Request) -> Completion:
    return Completion("", "tool_calls", tool_calls=(TOOL_CALL,)) if request.tools else Completion("I need f.")


@each
def test_calls_of_tools_are_answers(technique: Technique, options: dict[str, Any]) -> None:
    tool = Json.of({"type": "function", "function": {"name": "f"}})
    completion, _ = answer_of(technique, _called, Request(Request.of("Q?").messages, tools=(tool,)), **options)
    assert (completion.finish_reason, completion.tool_calls) == ("tool_calls", (TOOL_CALL,))


@each
def test_usage_is_that_of_every_call(technique: Technique, options: dict[str, Any]) -> None:
    completion, backend = answer_of(technique, lambda r: f"said {r.sample}", **options)
    assert completion.usage.calls == len(backend.requests)
    asked = sum(len(m.text.split()) for r in backend.requests for m in r.messages)
    assert completion.usage.prompt_tokens == asked


@each
def test_the_users_parameters_reach_the_call_that_answers(technique: Technique, options: dict[str, Any]) -> None:
    request = Request.of("Q?", temperature=0.2, seed=4, stop="\n", json_schema={"type": "object"}, logprobs=True)
    _, backend = answer_of(technique, lambda r: "{}", request, **options)
    assert request.params in [r.params for r in backend.requests]
    assert all(
        r.params in (request.params, Request.of("", temperature=0.2, seed=4).params) for r in backend.requests[:1]
    )
