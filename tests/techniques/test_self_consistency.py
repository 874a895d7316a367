"""The plurality of extracted, normalised answers wins, in one wave of n calls or, where it may stop, with fewer."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial

import pytest
from tests.scripting import answer_of, in_turn, run, scripted

from shoal.backends.scripted import Script
from shoal.errors import ServerError, UsageError
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques._stopping import RULES
from shoal.techniques.self_consistency import self_consistency


def test_the_vote_is_over_answers_not_wording() -> None:
    """Four wordings of 60 beat one short 50: comparing whole texts would return sample 0."""
    says = in_turn(
        "The answer is 50.",
        "12 times 5 is sixty, so the answer is 60.",
        "First 10 x 5 = 50, then 2 x 5 = 10. The answer is $60.00",
        r"We get \boxed{60}.",
        "Answer: 60 apples",
    )
    completion, backend = answer_of(self_consistency, says, n=5, kind="number")
    assert completion.text == "12 times 5 is sixty, so the answer is 60."
    assert completion.answer == "60"
    assert backend.batches == [5]
    assert completion.usage.calls == 5


def test_usage_is_summed_over_every_sample() -> None:
    completion, backend = answer_of(self_consistency, in_turn("The answer is 1."), "two words", n=3)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (6, 12)
    assert [r.sample for r in backend.requests] == [(0,), (1,), (2,)]


def test_ties_go_to_the_earliest_sample() -> None:
    completion, _ = answer_of(self_consistency, in_turn("The answer is 7.", "The answer is 8."), n=4)
    assert completion.answer == "7"


def test_an_answer_that_cannot_be_found_does_not_vote() -> None:
    says = in_turn("I do not know.", "I do not know.", "I do not know.", "The answer is 3.")
    completion, _ = answer_of(self_consistency, says, n=4, kind="number")
    assert completion.answer == "3"


def test_without_any_answer_the_first_sample_is_kept_and_no_answer_claimed() -> None:
    completion, _ = answer_of(self_consistency, in_turn("Hm.", "Well."), n=2, kind="number")
    assert (completion.text, completion.answer) == ("Hm.", None)
    assert completion.usage.calls == 2


def test_choices_and_words() -> None:
    completion, _ = answer_of(self_consistency, in_turn("(B)", "The answer is (C).", "C", "C."), n=4, kind="choice")
    assert completion.answer == "C"
    words = in_turn("The answer is Paris.", "The answer is Lyon.", "The answer is: paris")
    assert answer_of(self_consistency, words, n=3)[0].answer == "Paris"


def test_similarity_picks_the_medoid() -> None:
    """All answers differ; the one closest to the others wins, and the outlier does not."""
    says = in_turn("The answer is 100.", "The answer is 11.", "The answer is 10.", "The answer is 12.")

    def close(a: str, b: str) -> float:
        return -abs(float(a) - float(b))

    completion, _ = answer_of(self_consistency, says, n=4, kind="number", similarity=close)
    assert completion.answer == "11"


def test_the_conversation_and_the_parameters_reach_every_sample() -> None:
    request = Request.of("Q?", system="S", temperature=0.7, max_tokens=5, stop="\n")
    _, backend = answer_of(self_consistency, in_turn("The answer is 1."), request, n=3)
    assert all(r.question() == request for r in backend.requests)


def test_a_failed_sample_fails_the_whole_with_its_own_error() -> None:
    def script(request: Request) -> str | Completion:
        if request.sample == (1,):
            raise ServerError("down", retryable=False)
        return "The answer is 1."

    with pytest.raises(ServerError, match="down"):
        answer_of(self_consistency, script, n=3)


def test_a_reply_that_was_cut_off_votes_only_with_an_answer_it_states() -> None:
    says = [Completion("First 7, then 8", "length"), Completion("Answer: 9", "length"), "Answer: 9.", "Answer: 8."]
    completion, _ = answer_of(self_consistency, lambda r: says[r.sample[-1]], n=4, kind="number")
    assert (completion.answer, completion.text, completion.finish_reason) == ("9", "Answer: 9.", "stop")


def test_an_answer_only_given_by_a_cut_off_reply_says_so() -> None:
    says = [Completion("Answer: 9, because", "length"), "I do not know."]
    completion, _ = answer_of(self_consistency, lambda r: says[r.sample[-1]], n=2, kind="number")
    assert (completion.answer, completion.finish_reason) == ("9", "length")


def test_blank_and_cut_off_replies_stand_behind_whole_ones() -> None:
    says = [Completion("I was", "length"), " ", "No idea.", "None at all."]
    completion, _ = answer_of(self_consistency, lambda r: says[r.sample[-1]], n=4, kind="number")
    assert (completion.text, completion.answer) == ("No idea.", None)


def call(name: str, id_: str, arguments: str = "{}") -> Json:
    return Json.of({"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}})


def test_tool_calls_are_voted_on_whatever_they_are_named() -> None:
    tools = (Json.of({"type": "function", "function": {"name": "look"}}),)
    request = Request((Message("user", "Q?"),), tools=tools)
    names = ("ask", "look", "look")

    def script(request: Request) -> Completion:
        i = request.sample[-1]
        return Completion("", "tool_calls", tool_calls=(call(names[i], f"call_{i}"),))

    completion, _ = answer_of(self_consistency, script, request, n=3)
    assert completion.tool_calls == (call("look", "call_1"),)


def test_objects_are_voted_on_as_values() -> None:
    request = Request.of("Q?", json_schema={"type": "object"})
    says = in_turn('{"a": 2}', '{"a": 1, "b": [2]}', '{ "b": [2], "a": 1 }', "not JSON", "not JSON", "not JSON")
    completion, _ = answer_of(self_consistency, says, request, n=6)
    assert (completion.text, completion.answer) == ('{"a": 1, "b": [2]}', '{"a":1,"b":[2]}')


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1.0}', True),
        ('{"path": "Notes.txt"}', '{"path": "notes.txt"}', False),
        ("not JSON", "not  JSON", False),
    ],
)
def test_tool_calls_are_voted_on_by_their_arguments_as_values(first: str, second: str, same: bool) -> None:
    says = ('{"other": 0}', first, second)

    def script(request: Request) -> Completion:
        return Completion("", "tool_calls", tool_calls=(call("f", "1", says[request.sample[-1]]),))

    completion, _ = answer_of(self_consistency, script, n=3)
    assert completion.tool_calls == (call("f", "1", says[1 if same else 0]),)


def test_numbers_and_reasoning_do_not_divide_a_vote_on_objects() -> None:
    request = Request.of("Q?", json_schema={"type": "object"})
    says = in_turn('{"a": 2}', '{"a": 1}', '<think>{"a": 2}</think>{"a": 1.0}', '{"a": 2.5}')
    completion, _ = answer_of(self_consistency, says, request, n=4)
    assert (completion.text, completion.answer) == ('{"a": 1}', '{"a":1}')


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "1" * 10_000, "NaN", r'"\ud800"', "[1"])
def test_an_object_that_cannot_be_read_does_not_vote(text: str) -> None:
    request = Request.of("Q?", json_schema={})
    completion, _ = answer_of(self_consistency, in_turn(text, text, "[1]"), request, n=3)
    assert completion.answer == "[1]"


def test_a_number_that_was_cut_off_is_no_object() -> None:
    request = Request.of("Q?", json_schema={"type": "integer"})
    says = (Completion("12", "length"), Completion("12", "length"), Completion("1234"))
    completion, _ = answer_of(self_consistency, lambda r: says[r.sample[-1]], request, n=3)
    assert completion.text == "1234"


@pytest.mark.parametrize(
    "choices",
    [("Yes", "True"), ("a dog", "the dog"), ("10 kg", "10 g"), ("so long a choice " * 9, "one still longer " * 9)],
)
def test_choices_are_voted_on_as_they_stand(choices: tuple[str, str]) -> None:
    request = Request.of("Q?", choices=choices)
    completion, _ = answer_of(self_consistency, in_turn(choices[0], choices[1], choices[1]), request, n=3)
    assert (completion.text, completion.answer) == (choices[1], choices[1].strip())


def test_a_long_text_of_a_form_that_was_asked_for_is_an_answer() -> None:
    query = "SELECT name FROM ship WHERE built > 1900 AND flag = 'NO' ORDER BY {} LIMIT 10"
    says = in_turn(query.format("name"), query.format("built"), query.format("built"))
    completion, _ = answer_of(self_consistency, says, Request.of("Q?", regex="SELECT .*"), n=3)
    assert completion.text == query.format("built")


def test_what_a_nested_technique_answered_is_its_vote() -> None:
    inner = partial(self_consistency, n=3)
    says = {0: "1 2 2", 1: "3 3 1", 2: "2 1 2"}
    script = lambda r: f"The answer is {says[r.sample[0]].split()[r.sample[1]]}."  # noqa: E731
    model, backend = scripted(script, waves=True)
    completion = run(self_consistency(apply(inner, model), Request.of("Q?"), n=3))
    assert (completion.answer, completion.usage.calls, backend.batches) == ("2", 9, [9])


def test_proposers_take_turns_and_all_have_one() -> None:
    """Children of any kind vote together; several techniques on one model have draws of their own."""
    model, backend = scripted(in_turn("Answer: 1", "Answer: 2", "Answer: 2", "Answer: 1", "Answer: 1"), waves=True)
    other, theirs = scripted(lambda r: "Answer: 2", waves=True)
    completion = run(self_consistency(model, Request.of("Q?"), n=5, proposers=[model, other]))
    assert [r.sample for r in backend.requests] == [(0,), (2,), (4,)]
    assert [r.sample for r in theirs.requests] == [(1,), (3,)]
    assert (completion.answer, completion.usage.calls) == ("2", 5)
    team = [apply(partial(self_consistency, n=1), model), model, other]
    assert run(self_consistency(model, Request.of("Q?"), n=1, proposers=team)).usage.calls == 3


def uneven(turns: Sequence[int], script: Script) -> Script:
    """Draw i takes turns[i] turns of the event loop."""

    async def answer(request: Request) -> str | Completion:
        for _ in range(turns[request.sample[-1]]):
            await asyncio.sleep(0)
        said = script(request)
        assert isinstance(said, str | Completion)
        return said

    return answer


@pytest.mark.parametrize(
    ("rule", "wave", "sure"), [("settled", 20, 1.0), ("beta", 4, 0.96875), ("martingale", 6, 1 - 1 / 21.25)]
)
def test_a_unanimous_vote_stops_early_in_one_wave(rule: str, wave: int, sure: float) -> None:
    completion, backend = answer_of(self_consistency, in_turn("The answer is 4."), n=40, stop=rule)
    assert backend.batches == [wave]
    assert (completion.answer, completion.usage.calls) == ("4", wave)
    assert completion.confidence == pytest.approx(sure)


def test_a_divided_vote_goes_on_until_it_is_settled() -> None:
    """The last of 40 samples can at most make a tie, which the earlier answer wins."""
    says = in_turn("The answer is 4.", "The answer is 5.")
    completion, backend = answer_of(self_consistency, says, n=40, stop="martingale")
    full, _ = answer_of(self_consistency, says, n=40)
    assert completion.usage.calls == len(backend.requests) == 39
    assert (completion.text, completion.answer) == (full.text, full.answer)
    assert len(backend.batches) <= 10
    assert completion.confidence == pytest.approx(0.0, abs=0.5)
    assert full.confidence is None


@pytest.mark.parametrize("rule", RULES)
def test_short_replies_that_come_first_do_not_decide(rule: str) -> None:
    """The first samples say 4 and take long; the later ones say 5 at once."""
    says = in_turn(*["The answer is 4."] * 20, *["The answer is 5."] * 20)
    model, _ = scripted(uneven([30] * 20 + [0] * 20, says))
    completion = run(self_consistency(model, Request.of("Q?"), n=40, stop=rule, ahead=40))
    assert completion.answer == "4"


@pytest.mark.parametrize("rule", RULES)
def test_the_answer_does_not_depend_on_what_came_first(rule: str) -> None:
    said = random.Random(3).choices(
        ["The answer is 1.", "The answer is 2.", "The answer is 3.", "Hm?"], (5, 2, 1, 1), k=30
    )
    seen = set()
    for seed in range(20):
        turns = random.Random(seed).choices(range(40), k=30)
        model, backend = scripted(uneven(turns, in_turn(*said)))
        completion = run(self_consistency(model, Request.of("Q?"), n=30, kind="number", stop=rule, ahead=9))
        assert completion.usage.calls <= len(backend.requests)
        seen.add((completion.text, completion.answer, completion.confidence))
    assert len(seen) == 1


def test_samples_beyond_the_decision_are_cancelled_and_those_that_came_are_paid_for() -> None:
    """One dissent makes it start more; the last of them never come, and nobody waits for them."""
    says = in_turn("The answer is 5.", *["The answer is 4."] * 39)
    left: list[int] = []

    async def script(request: Request) -> str | Completion:
        i = request.sample[-1]
        if i >= 12:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                left.append(i)
                raise
        said = says(request)
        assert isinstance(said, str)
        return said

    model, backend = scripted(script)
    completion = run(self_consistency(model, Request.of("Q?"), n=40, stop="beta", ahead=20))
    asked = [r.sample[-1] for r in backend.requests]
    assert completion.answer == "4"
    assert left == [i for i in asked if i >= 12] != []
    assert completion.usage.calls == len(asked) - len(left) > 8


def test_a_failure_that_is_needed_is_raised_and_one_beyond_the_decision_is_not() -> None:
    def failing(at: int) -> Script:
        def script(request: Request) -> str | Completion:
            if request.sample[-1] == at:
                raise ServerError("down", retryable=False)
            return "The answer is 5." if request.sample[-1] == 0 else "The answer is 4."

        return script

    def vote(at: int) -> Completion:
        model, _ = scripted(failing(at))
        return run(self_consistency(model, Request.of("Q?"), n=40, stop="beta", ahead=20))

    with pytest.raises(ServerError, match="down"):
        vote(2)
    completion = vote(12)
    assert (completion.answer, completion.usage.calls) == ("4", 23)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0"),
        ({"ahead": 0}, "ahead=0"),
        ({"proposers": []}, "proposers is empty"),
        ({"stop": "betta"}, "stop='betta'; did you mean beta"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"kind": "numbre"}, "numbre"),
        ({"stop": "settled", "similarity": lambda a, b: 0.0}, "similarity"),
    ],
)
def test_bad_options_are_refused_before_any_call(options: dict[str, object], message: str) -> None:
    model, backend = scripted(in_turn("1"))
    with pytest.raises(UsageError, match=message):
        run(self_consistency(model, Request.of("Q?"), **options))  # type: ignore[arg-type]
    assert not backend.requests


def test_a_probability_is_not_claimed_of_several_models() -> None:
    model, backend = scripted(in_turn("The answer is 1."))
    for rule in ("beta", "martingale"):
        with pytest.raises(UsageError, match="draws of one model"):
            run(self_consistency(model, Request.of("Q?"), stop=rule, proposers=[model, model]))
    assert not backend.requests
    assert run(self_consistency(model, Request.of("Q?"), stop="settled", proposers=[model, model])).answer == "1"
