"""The judge sees question and conversation; the highest readable score, or the one that is preferred, wins."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import BadRequest, UsageError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.best_of_n import best_of_n

ANSWERS = ("wrong", "right", "vague", "long")


def judged(*verdicts: str) -> Callable[[Request], str]:
    """A model that answers by draw, and judges each of ANSWERS with its verdict."""

    def script(request: Request) -> str:
        if "<answer>" in request.text:
            candidate = request.text.split("<answer>\n")[1].split("\n</answer>")[0]
            return verdicts[ANSWERS.index(candidate)]
        return ANSWERS[request.sample[-1]]

    return script


def test_the_highest_score_wins_in_two_steps() -> None:
    verdicts = judged("It errs.\nScore: 2/10", "**Score: 9**", "Rating: 5", "So-so. 6 out of 10")
    completion, backend = answer_of(best_of_n, verdicts, n=4)
    assert completion.text == "right"
    assert backend.batches == [4, 4]
    assert completion.usage.calls == 8


def test_an_unreadable_score_is_missing_and_not_zero() -> None:
    verdicts = judged("It is fine, I think.", "Score: 1", "Cannot say.", "Score: 0")
    assert answer_of(best_of_n, verdicts, n=4)[0].text == "right"


def test_reasons_before_the_score_do_not_count_as_scores() -> None:
    verdicts = judged(
        "It could be a 10, but it is wrong.\nScore: 3", "2 small slips.\nScore: 8", "Score: 1", "Score: 1"
    )
    assert answer_of(best_of_n, verdicts, n=4)[0].text == "right"


def test_ties_go_to_the_earliest_and_no_score_at_all_is_a_tie() -> None:
    assert answer_of(best_of_n, judged(*["Score: 5"] * 4), n=4)[0].text == "wrong"
    assert answer_of(best_of_n, judged(*["no idea"] * 4), n=4)[0].text == "wrong"


def test_the_judge_sees_the_whole_conversation_and_not_the_users_limits() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([picture, {"type": "text", "text": "Q?"}])),
    )
    request = Request(turns).with_params(max_tokens=3, stop=("\n",), temperature=1.0).draw(7)
    _, backend = answer_of(best_of_n, judged(*["Score: 5"] * 4), request, n=2)
    verdict = backend.requests[-1]
    for said in ("Be kind.", "First?", "One.", "Q?"):
        assert said in verdict.text
    assert isinstance(verdict.messages[0].content, Json)
    assert verdict.messages[0].content.value()[0]["type"] == "image_url"
    assert (verdict.params.max_tokens, verdict.params.stop, verdict.params.temperature) == (None, (), 0.0)
    assert verdict.sample == (7,)


def test_another_model_can_judge() -> None:
    model, answering = scripted(judged())
    judge, judging = scripted(judged("Score: 1", "Score: 2", "Score: 9", "Score: 3"))
    assert run(best_of_n(model, Request.of("Q"), judge=judge)).text == "vague"
    assert (len(answering.requests), len(judging.requests)) == (4, 4)


def compared(prefer: Callable[[str, str], str]) -> Callable[[Request], str]:
    """A model that answers by draw, and compares two of ANSWERS by `prefer(first, second)`, which gives the verdict."""

    def script(request: Request) -> str:
        if "<answer_a>" not in request.text:
            return ANSWERS[request.sample[-1]]
        first, second = (request.text.split(f"<answer_{x}>\n")[1].split(f"\n</answer_{x}>")[0] for x in ("a", "b"))
        return f"One after the other...\nVerdict: {prefer(first, second)}"

    return script


def better(order: str) -> Callable[[str, str], str]:
    """A judge for whom of two answers the one whose initial comes first in `order` is better, wherever it stands."""
    return lambda first, second: "A" if order.index(first[0]) < order.index(second[0]) else "B"


def test_pairwise_the_one_that_wins_most_comparisons_wins_in_two_steps() -> None:
    completion, backend = answer_of(best_of_n, compared(better("vlrw")), n=4, judging="pairwise")
    assert completion.text == "vague"
    assert backend.batches == [4, 12]
    assert completion.usage.calls == 16


def test_pairwise_every_pair_is_compared_in_both_orders() -> None:
    _, backend = answer_of(best_of_n, compared(better("vlrw")), n=3, judging="pairwise")
    assert len({request.text for request in backend.requests[3:]}) == 6


@pytest.mark.parametrize("judging", ["pairwise", "tournament"])
@pytest.mark.parametrize("habit", ["A", "B", "tie", "hard to say"])
def test_a_judge_that_goes_by_the_place_decides_nothing(judging: str, habit: str) -> None:
    assert answer_of(best_of_n, compared(lambda a, b: habit), n=4, judging=judging)[0].text == "wrong"


@pytest.mark.parametrize("judging", ["pairwise", "tournament"])
def test_one_order_alone_decides_nothing(judging: str) -> None:
    """B is said of "right" where it stands second, nothing that can be read where it stands first."""
    completion, _ = answer_of(
        best_of_n, compared(lambda a, b: "B" if b == "right" else "unclear"), n=2, judging=judging
    )
    assert completion.text == "wrong"


def test_pairwise_a_tie_is_half_a_point() -> None:
    """wrong beats vague; right beats vague and long, and ties with wrong: 2.5 points against 2 for wrong."""

    def prefer(first: str, second: str) -> str:
        winners = {("wrong", "vague"): "wrong", ("right", "vague"): "right", ("long", "right"): "right"}
        winner = winners.get((first, second)) or winners.get((second, first))
        return "tie" if winner is None else "A" if winner == first else "B"

    assert answer_of(best_of_n, compared(prefer), n=4, judging="pairwise")[0].text == "right"


@pytest.mark.parametrize(("n", "waves"), [(1, [1]), (2, [2, 2]), (3, [3, 2, 2]), (4, [4, 4, 2])])
def test_tournament_is_a_knock_out(n: int, waves: list[int]) -> None:
    completion, backend = answer_of(best_of_n, compared(better("lvrw")), n=n, judging="tournament")
    assert completion.text == ("wrong", "right", "vague", "long")[n - 1]
    assert backend.batches == waves
    assert completion.usage.calls == sum(waves)


def test_tournament_only_winners_meet_again() -> None:
    _, backend = answer_of(best_of_n, compared(better("rlvw")), n=4, judging="tournament")
    last = backend.requests[-1].text
    assert "right" in last.split("<answer_a>")[1]
    assert "long" in last.split("<answer_a>")[1]
    assert "vague" not in last.split("<answer_a>")[1]


def selecting(request: Request) -> str:
    """A judge that picks "vague" wherever it stands."""
    if "[Answer 1]" not in request.text:
        return ANSWERS[request.sample[-1]]
    place = re.search(r"\[Answer (\d+)\]\nvague", request.text)
    return f"All weighed.\n**Verdict:** Answer {place[1] if place else 1}"


def test_select_compares_all_at_once_in_rotated_orders() -> None:
    completion, backend = answer_of(best_of_n, selecting, n=4, judging="select", votes=5)
    assert completion.text == "vague"
    assert backend.batches == [4, 5]
    asked = sorted(backend.requests[4:], key=lambda request: request.sample)
    firsts = [request.text.split("[Answer 1]\n")[1].split("\n")[0] for request in asked]
    assert firsts == ["wrong", "right", "vague", "long", "wrong"]
    assert len({request.sample for request in asked}) == 5


def test_select_a_judge_that_goes_by_the_place_gets_no_majority() -> None:
    def first(request: Request) -> str:
        return "Verdict: 1" if "[Answer 1]" in request.text else ANSWERS[request.sample[-1]]

    assert answer_of(best_of_n, first, n=4, judging="select", votes=4)[0].text == "wrong"


@pytest.mark.parametrize("verdict", ["Verdict: 9", "Verdict: 1 or 2", "No idea."])
def test_select_an_unreadable_verdict_is_no_vote(verdict: str) -> None:
    def script(request: Request) -> str:
        return selecting(request) if request.sample[-1] == 0 or "[Answer 1]" not in request.text else verdict

    assert answer_of(best_of_n, script, n=4, judging="select")[0].text == "vague"


@pytest.mark.parametrize("judging", ["score", "pairwise", "tournament", "select"])
def test_an_empty_answer_is_neither_judged_nor_kept(judging: str) -> None:
    def script(request: Request) -> str:
        if len(request.sample) == 1 and "<conversation>" not in request.text:
            return ("", "  \n", "vague", "long")[request.sample[-1]]
        assert "[Answer 3]" not in request.text
        return "Score: 0\nVerdict: tie"

    completion, backend = answer_of(best_of_n, script, n=4, judging=judging)
    assert completion.text == "vague"
    assert backend.batches == [4, 3 if judging == "select" else 2]
    alone, backend = answer_of(best_of_n, lambda r: ("", "only")[r.sample[-1]], n=2, judging=judging)
    assert (alone.text, backend.batches) == ("only", [2])
    assert answer_of(best_of_n, lambda r: "", n=3, judging=judging)[0].text == ""


@pytest.mark.parametrize("judging", ["score", "pairwise", "tournament", "select"])
def test_a_cut_off_answer_does_not_win_a_tie(judging: str) -> None:
    def script(request: Request) -> Completion:
        if "<conversation>" in request.text:
            return Completion("no idea")
        return Completion(ANSWERS[request.sample[-1]], "length" if request.sample[-1] == 0 else "stop")

    assert answer_of(best_of_n, script, n=2, judging=judging)[0].text == "right"


@pytest.mark.parametrize("judging", ["score", "pairwise", "tournament", "select"])
def test_a_verdict_that_was_cut_off_is_missing(judging: str) -> None:
    def script(request: Request) -> Completion:
        if "<conversation>" in request.text:
            return Completion("Score: 9\nVerdict: 2\nVerdict: B", "length")
        return Completion(ANSWERS[request.sample[-1]])

    assert answer_of(best_of_n, script, n=2, judging=judging)[0].text == "wrong"


def test_copies_are_judged_once() -> None:
    completion, backend = answer_of(best_of_n, lambda r: "same" if len(r.sample) else "x", n=4, judging="pairwise")
    assert (completion.text, backend.batches) == ("same", [4])


def test_tool_calls_are_answers_that_the_judge_sees() -> None:
    def script(request: Request) -> Completion:
        if "<answer>" in request.text:
            return Completion(f"Score: {9 if 'Oslo' in request.text else 2}")
        place = ("Rome", "Oslo")[request.sample[-1]]
        return Completion("", "tool_calls", tool_calls=(Json.of({"name": "weather", "place": place}),))

    completion, _ = answer_of(best_of_n, script, n=2)
    assert "Oslo" in completion.tool_calls[0].text


@pytest.mark.parametrize("judging", ["score", "pairwise", "tournament", "select"])
def test_a_failed_verdict_fails_as_itself(judging: str) -> None:
    def script(request: Request) -> str:
        if "<conversation>" in request.text:
            raise BadRequest("no such judge")
        return ANSWERS[request.sample[-1]]

    with pytest.raises(BadRequest, match="no such judge"):
        answer_of(best_of_n, script, n=4, judging=judging)


@pytest.mark.parametrize("judging", ["score", "pairwise", "tournament", "select"])
def test_the_answer_does_not_depend_on_the_order_in_which_replies_come(judging: str) -> None:
    def late(delays: int) -> Callable[[Request], Awaitable[str]]:
        async def script(request: Request) -> str:
            for _ in range(len(request.text) * delays % 7):
                await asyncio.sleep(0)
            return (
                f"Score: {len(request.text) % 5}\nVerdict: {'AB'[len(request.text) % 2]}\n[[{len(request.text) % 4}]]"
            )

        return script

    def once(delays: int) -> Completion:
        model, _ = scripted(late(delays))
        varied, _ = scripted(lambda r: ANSWERS[r.sample[-1]])
        return run(best_of_n(varied, Request.of("Q?"), judge=model, judging=judging))

    assert len({once(delays).text for delays in range(5)}) == 1


@pytest.mark.parametrize("options", [{"n": 0}, {"judging": "pairwize"}, {"judging": "select", "votes": 0}])
def test_bad_options_are_refused_before_any_call(options: dict[str, Any]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=str(next(reversed(options.values())))):
        run(best_of_n(model, Request.of("Q?"), **options))
    assert backend.requests == []
