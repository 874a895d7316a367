"""Mistakes on given examples become principles, and the question is answered with them."""

import asyncio
import random
import re
from collections.abc import Callable

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import ServerError, UsageError
from shoal.runtime.model import apply, stream
from shoal.runtime.types import Completion, Delta, Json, Message, Request
from shoal.techniques.learning_principles import learning_principles

PAIRS = (("1 + 1?", "2"), ("2 x 3?", "It is 2 + 2 + 2. The answer is 6."), ("Capital of France?", "Paris"))
TURNS = tuple(turn for q, a in PAIRS for turn in (Message("user", q), Message("assistant", a)))
ASKED = Request((Message("system", "S"), *TURNS, Message("user", "9 + 9?")))
RIGHT = {"1 + 1?": "So the answer is **2**.", "2 x 3?": r"\boxed{6}", "Capital of France?": "The answer is paris."}
WRONG = {"1 + 1?": "The answer is 3.", "2 x 3?": "The answer is 5.", "Capital of France?": "The answer is Lyon."}


def stage(request: Request) -> str:
    text = request.text
    if "Let's think step by step" in text:
        return "try"
    if "was answered wrongly" in text:
        return "explain"
    return "summary" if "drawn from single mistakes" in text else "answer"


def example(request: Request) -> str:
    return next(q for q in RIGHT if q in request.text)


def learner(*wrong: str) -> Callable[[Request], str]:
    """A model that is wrong on those examples."""

    def script(request: Request) -> str:
        match stage(request):
            case "try":
                question = example(request)
                return WRONG[question] if question in wrong else RIGHT[question]
            case "explain":
                return f"It erred.\n**Principle:** mind {example(request)} ({request.sample[-1]})"
            case "summary":
                return "- Be careful."
        return "The answer is 18."

    return script


def test_mistakes_become_principles_and_these_an_answer() -> None:
    completion, backend = answer_of(learning_principles, learner("2 x 3?"), ASKED, attempts=2)
    assert [stage(r) for r in backend.requests] == ["try"] * 6 + ["explain"] * 2 + ["summary", "answer"]
    assert backend.batches == [6, 2, 1, 1]
    assert completion.usage.calls == 10
    assert completion.text == "The answer is 18."
    explained, summed, asked = backend.requests[6], backend.requests[8], backend.requests[9]
    for part in ("2 x 3?", "The answer is 5.", "It is 2 + 2 + 2. The answer is 6."):
        assert part in explained.text
    assert "- mind 2 x 3? (0)\n- mind 2 x 3? (1)" in summed.text
    assert "It erred" not in summed.text
    assert str(asked.messages[0].content).startswith("S\n\n")
    assert "- Be careful." in str(asked.messages[0].content)
    assert asked.messages[1:] == ASKED.messages[1:]
    assert asked.params == ASKED.params


def test_answers_are_compared_by_value_and_not_by_wording() -> None:
    """Every attempt words the right answer differently from the example: none is a mistake."""
    completion, backend = answer_of(learning_principles, learner(), ASKED, attempts=1)
    assert [stage(r) for r in backend.requests] == ["try"] * 3 + ["answer"]
    assert backend.requests[-1] == ASKED
    assert completion.usage.calls == 4


def test_attempts_see_the_example_alone_and_are_draws_of_their_own() -> None:
    request = ASKED.draw(7).with_params(temperature=0.9, max_tokens=5, choices=("18", "19"))
    _, backend = answer_of(learning_principles, learner(), request, attempts=2)
    tries = backend.requests[:-1]
    assert [r.sample for r in tries] == [(7, 0), (7, 1)] * 3
    assert tries[0].messages[0].content == "S"
    assert len(tries[0].messages) == 2
    assert tries[0].text.startswith("1 + 1?")
    assert (tries[0].params.temperature, tries[0].params.max_tokens, tries[0].params.choices) == (0.9, None, ())
    assert backend.requests[-1].params == request.params


def test_principles_are_used_as_they_are_at_the_low_level() -> None:
    _, backend = answer_of(learning_principles, learner("1 + 1?"), ASKED, attempts=1, level="low")
    assert [stage(r) for r in backend.requests] == ["try"] * 3 + ["explain", "answer"]
    assert "- mind 1 + 1? (0)" in str(backend.requests[-1].messages[0].content)


def test_a_chain_does_not_wait_for_another() -> None:
    """The first attempt is slow: the mistake of the second is explained meanwhile."""
    order: list[str] = []
    slow = asyncio.Event()

    async def script(request: Request) -> str:
        if stage(request) == "try" and example(request) == "1 + 1?":
            await slow.wait()
        order.append(stage(request))
        if stage(request) == "explain":
            slow.set()
        return learner("2 x 3?")(request)

    model, _ = scripted(script)
    run(learning_principles(model, ASKED, attempts=1))
    assert order.index("explain") < max(i for i, name in enumerate(order) if name == "try")


def test_examples_can_be_given_and_are_then_shown() -> None:
    request = Request.of("9 + 9?", system="S")
    _, backend = answer_of(learning_principles, learner("1 + 1?"), request, attempts=1, examples=PAIRS)
    system = str(backend.requests[-1].messages[0].content)
    assert system.startswith("S\n\n")
    assert "Q: Capital of France?\nA: Paris" in system
    assert "- Be careful." in system
    assert backend.requests[-1].messages[1].content == "9 + 9?"
    _, backend = answer_of(learning_principles, learner(), request, attempts=1, examples=PAIRS)
    system = str(backend.requests[-1].messages[0].content)
    assert "Q: 1 + 1?\nA: 2" in system
    assert "principles" not in system


def test_examples_written_in_the_prompt_are_found() -> None:
    long = "Question: 2 x 3?\n\nAnswer: It is 2 + 2 + 2.\n\nThe answer is 6."
    text = f"Some sums.\n\nQ: 1 + 1?\nA: 2\n\n{long}\n\nQ: 9 + 9?\nA:"
    completion, backend = answer_of(learning_principles, learner("1 + 1?"), Request(prompt=text), attempts=1)
    assert [stage(r) for r in backend.requests] == ["try", "try", "explain", "summary", "answer"]
    assert str(backend.requests[0].prompt).startswith("1 + 1?\n\n")
    assert "The answer is 6." not in str(backend.requests[1].prompt)
    assert str(backend.requests[-1].prompt).endswith(text)
    assert completion.usage.calls == 5
    _, backend = answer_of(learning_principles, learner("1 + 1?"), "Q: 1 + 1?\nA: 2\n\nAnd 9 + 9?", attempts=1)
    assert "<right_answer>\n2\n</right_answer>" in backend.requests[1].text


def test_without_examples_the_question_is_answered_as_it_stands() -> None:
    for request in (Request.of("9 + 9?"), Request((*TURNS[:1],)), Request.of("Q: 9 + 9?\nA:")):
        completion, backend = answer_of(learning_principles, learner(), request)
        assert (backend.requests, completion.usage.calls) == ([request], 1)


def test_the_question_itself_and_calls_of_tools_are_no_examples() -> None:
    called = Message("assistant", "I call f.", tool_calls=(Json.of({"id": "1"}),))
    turns = (Message("user", "1 + 1?"), Message("assistant", "2"), Message("user", "2 x 3?"), called)
    request = Request((*turns, Message("tool", "6", tool_call_id="1"), Message("user", "Once more:\n\n1 + 1?")))
    assert answer_of(learning_principles, learner(), request)[1].requests == [request]


def test_pictures_of_examples_are_shown_with_them() -> None:
    def asked(url: str) -> Message:
        return Message(
            "user", Json.of([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "2 x 3?"}])
        )

    request = Request((asked("data:a"), Message("assistant", "6"), asked("data:b")))
    _, backend = answer_of(learning_principles, learner("2 x 3?"), request, attempts=1)
    for r in backend.requests[:2]:
        assert [url in str(r.messages[0].content) for url in ("data:a", "data:b")] == [True, False]


def test_an_example_or_attempt_without_an_answer_is_no_mistake() -> None:
    long = "It depends on many things.\nSome say this.\nOthers say that."
    _, backend = answer_of(learning_principles, lambda r: "x", "Q?", examples=[("Why?", long)])
    assert [stage(r) for r in backend.requests] == ["answer"]

    def script(request: Request) -> Completion:
        return Completion("First 1 + 1 = 3, and then 3 + 4 = 7, so", "length")

    _, backend = answer_of(learning_principles, script, "Q?", examples=PAIRS[:1], attempts=2)
    assert [stage(r) for r in backend.requests] == ["try", "try", "answer"]


@pytest.mark.parametrize(
    ("summary", "kept"),
    [
        ("<think>- Be brief?</think>\n- Be careful.", "- Be careful."),
        ("<think>- Be brief?", "- mind 2 x 3? (0)"),
        (Completion("- Be care", "length"), "- mind 2 x 3? (0)"),
        (" ", "- mind 2 x 3? (0)"),
    ],
)
def test_a_summary_that_is_not_whole_takes_the_place_of_no_principle(summary: Completion | str, kept: str) -> None:
    script = learner("2 x 3?")
    replies = lambda r: summary if stage(r) == "summary" else script(r)  # noqa: E731
    _, backend = answer_of(learning_principles, replies, ASKED, attempts=1)
    shown = backend.requests[-1].messages[0].text
    assert f"similar questions:\n\n{kept}\n\n" in shown


def test_what_is_thought_before_an_explanation_is_no_principle() -> None:
    def script(request: Request) -> str:
        return (
            "<think>Principle: draft?</think>It erred." if stage(request) == "explain" else learner("2 x 3?")(request)
        )

    _, backend = answer_of(learning_principles, script, ASKED, attempts=1, level="low")
    assert "\n\n- It erred.\n\n" in backend.requests[-1].messages[0].text


def test_cut_off_or_empty_principles() -> None:
    def script(request: Request) -> Completion:
        match stage(request):
            case "try":
                return Completion("The answer is 3.")
            case "explain" if request.sample[-1] == 0:
                return Completion("It is wrong since", "length")
            case "explain":
                return Completion("Count both.")
        return Completion("")

    _, backend = answer_of(learning_principles, script, "Q?", examples=PAIRS[:1], attempts=2)
    system = str(backend.requests[-1].messages[0].content)
    assert "It is wrong since" not in system
    assert "- Count both." in system


def test_any_order_of_completion_gives_the_same_answer() -> None:
    def once(seed: int) -> Completion:
        chance = random.Random(seed)

        async def script(request: Request) -> str:
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            said = learner("1 + 1?", "2 x 3?")(request)
            return f"{said} {re.findall('[0-9]', request.text)}" if stage(request) in ("summary", "answer") else said

        return run(learning_principles(scripted(script)[0], ASKED))

    assert len({once(seed) for seed in range(5)}) == 1


def test_the_answer_streams() -> None:
    async def pieces() -> list[object]:
        model, _ = scripted(learner("1 + 1?"))
        return [piece async for piece in stream(apply(learning_principles, model), ASKED)]

    assert [p.text for p in run(pieces()) if isinstance(p, Delta)] == ["The ", "answer ", "is ", "18."]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attempts": 0}, "attempts=0: must be at least 1"),
        ({"level": "middle"}, "level='middle'; it is high or low"),
        ({"kind": "numbr"}, "unknown kind of answer 'numbr'"),
        ({"kind": "numbr", "examples": PAIRS}, "unknown kind of answer 'numbr'; did you mean number"),
    ],
)
def test_mistakes_in_options_are_named(options: dict[str, object], said: str) -> None:
    model, backend = scripted(learner())
    with pytest.raises(UsageError, match=said):
        run(learning_principles(model, Request.of("Q?"), **options))
    assert backend.requests == []


def test_a_failure_is_raised_as_itself() -> None:
    def script(request: Request) -> str:
        if stage(request) == "try" and request.sample == (1,):
            raise ServerError("down", retryable=False)
        return "The answer is 3."

    with pytest.raises(ServerError, match="down"):
        answer_of(learning_principles, script, ASKED)
