"""Faults that implementations of these techniques are known for, and that these do not have."""

import re

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import TechniqueError
from shoal.runtime.types import Message, Request
from shoal.techniques.monte_carlo_tree_search import monte_carlo_tree_search
from shoal.techniques.rstar import rstar

# -- monte_carlo_tree_search


def _mcts_steps(request: Request) -> list[str]:
    shown = request.text.rsplit("<steps>\n", 1)[1].split("\n</steps>")[0]
    return re.split(r"\[Step \d+\]\n", shown)[1:]


def _mcts_script(request: Request) -> str:
    """Always another step; the judge likes the third first step best."""
    if "Score: <number>" in request.text:
        return f"Score: {9 if 'third' in request.text else 2}"
    if "Write the next step only" in request.text:
        return ("first", "second", "third")[request.sample[-1]]
    return "written from " + _mcts_steps(request)[0].strip()


def test_mcts_shows_the_question_to_everyone_it_asks() -> None:
    conversation = (Message("system", "Be brief."), Message("user", "How many ships?"))
    _, backend = answer_of(monte_carlo_tree_search, _mcts_script, Request(conversation))
    assert len(backend.requests) == 17
    for request in backend.requests:
        assert "How many ships?" in "".join(message.text for message in request.messages)
        roles = [message.role for message in request.messages]
        assert roles in (["user"], ["system", "user"])


def test_mcts_scores_decide_at_the_defaults() -> None:
    assert answer_of(monte_carlo_tree_search, _mcts_script)[0].text == "written from third"

    def turned(request: Request) -> str:
        if "Score: <number>" in request.text:
            return f"Score: {9 if 'second' in request.text else 2}"
        return _mcts_script(request)

    assert answer_of(monte_carlo_tree_search, turned)[0].text == "written from second"


def test_mcts_descends_more_than_one_level_and_expands_nothing_twice() -> None:
    def unlike(request: Request) -> str:
        if "Score: <number>" in request.text:
            return f"Score: {9 if 'third' in request.text else 2}"
        return f"{_mcts_script(request)} of {len(_mcts_steps(request))}"

    _, backend = answer_of(monte_carlo_tree_search, unlike, simulations=60, depth=10)
    asked = [request for request in backend.requests if "Write the next step only" in request.text]
    assert len(set(asked)) == len(asked) == 60
    assert max(len(_mcts_steps(request)) for request in asked) >= 3


def test_mcts_a_question_with_goodbye_in_it_is_a_question() -> None:
    completion, _ = answer_of(monte_carlo_tree_search, _mcts_script, "Why do people say goodbye?")
    assert completion.text == "written from third"


def test_mcts_empty_replies_do_not_crash_it() -> None:
    with pytest.raises(TechniqueError, match="blank"):
        answer_of(monte_carlo_tree_search, lambda request: "")


def test_mcts_an_unreadable_score_is_not_a_half() -> None:
    def script(request: Request) -> str:
        if "Score: <number>" in request.text:
            return "Hard to say." if "first" in request.text else f"Score: {1 if 'second' in request.text else 4}"
        return _mcts_script(request)

    assert answer_of(monte_carlo_tree_search, script, simulations=3)[0].text == "written from third"


# -- rstar


def _rstar_answer(said: str, question: str = "Of 12 and 99?") -> str | None:
    return answer_of(rstar, lambda request: f"So.\nFinal answer: {said}", question, rollouts=4)[0].answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [("-5", "-5"), ("3.14", "3.14"), ("1,234", "1,234"), ("-3.75 dollars", "-3.75 dollars"), ("Paris", "Paris")],
)
def test_rstar_answers_of_every_kind_are_whole(said: str, answer: str) -> None:
    assert _rstar_answer(said) == answer


def test_rstar_equal_answers_in_another_form_agree_and_words_do_not() -> None:
    """The majority says 1234 in three ways; the wordings of the answers have little in common."""
    forms = ("1,234", "1234.0", "$1234", "77", "78", "79")

    def script(request: Request) -> str:
        if "Go on from there" in request.text and len(request.sample) > 1:
            return "It comes to 1234 all in all.\nFinal answer: 1234"
        return f"Final answer: {forms[request.sample[0] % 6]}"

    completion, _ = answer_of(rstar, script, rollouts=6, depth=2)
    assert completion.answer in forms[:3]


def test_rstar_numbers_of_the_question_do_not_win() -> None:
    completion, _ = answer_of(
        rstar, lambda request: "I do not know at all what this is about or how to go on with it.", "What is 12 + 99?"
    )
    assert completion.answer is None


def test_rstar_a_tree_is_built_and_its_actions_are_not_at_random() -> None:
    """The first actions are each tried in turn; later rollouts go on below the earlier ones."""
    model, backend = scripted(lambda request: f"thought {request.sample}")
    run(rstar(model, Request.of("Q"), rollouts=40, depth=4))
    first = [request for request in backend.requests if len(request.sample) == 1]
    assert len(first) == 6  # A1 and A3 twice, A2 and A5 once, none of them twice the same
    assert len({request.messages for request in first}) == 4
    below = [request.sample for request in backend.requests if len(request.sample) == 2]
    assert max(sum(sample[0] == start[0] for sample in below) for start in below) >= 3


def test_rstar_rewards_reach_the_leaves_and_decide() -> None:
    """Two of three trajectories agree, and they do not come first."""

    def script(request: Request) -> str:
        if len(request.sample) > 1:
            return "Final answer: unlike any"
        return f"Final answer: {'late' if request.sample[0] else 'early'}"

    assert answer_of(rstar, script, rollouts=3)[0].answer == "late"


def test_rstar_keeps_the_users_system_prompt_and_answers_with_the_work() -> None:
    request = Request.of("Q?", system="You are a pirate.")
    completion, backend = answer_of(rstar, lambda request: "Aye.\nFinal answer: 4", request, rollouts=4)
    assert all(asked.messages[0] == Message("system", "You are a pirate.") for asked in backend.requests)
    assert completion.text != completion.answer
    assert completion.text.endswith("Aye.\nFinal answer: 4")


def test_rstar_another_model_can_discriminate_and_all_its_calls_are_at_once() -> None:
    model, _ = scripted(lambda request: f"Final answer: {request.sample}")
    other, asked = scripted(lambda request: "Final answer: 1", waves=True)
    run(rstar(model, Request.of("Q"), rollouts=4, discriminator=other))
    assert len(asked.batches) == 1
    assert len(asked.requests) >= 3
