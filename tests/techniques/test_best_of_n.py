"""The judge sees question and conversation; the highest readable score wins; 2n calls, 2 one after another."""

from collections.abc import Callable

from tests.scripting import answer_of, run, scripted

from shoal.runtime.types import Json, Message, Request
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
