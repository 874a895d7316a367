"""The plurality of extracted, normalised answers wins, in one wave of n calls."""

import pytest
from tests.scripting import answer_of, in_turn

from shoal.errors import ServerError
from shoal.runtime.types import Completion, Request
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
