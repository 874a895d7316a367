"""Faults that implementations of these techniques are known for, and that these do not have."""

import re

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import AuthenticationFailed
from shoal.runtime.types import Completion, Message, Request
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.mixture_of_agents import mixture_of_agents
from shoal.techniques.plan_search import plan_search
from shoal.techniques.prover_verifier_game import prover_verifier_game

# -- best_of_n


@pytest.mark.parametrize("score", ["8/10", "Rating: 9", "**10**", "**Score:** 8", "Fine, but long.\n9", "Score: 8.5"])
def test_bon_a_score_counts_however_it_is_written(score: str) -> None:
    def script(request: Request) -> str:
        if "<answer>" in request.text:
            return score if "<answer>\nsecond\n" in request.text else "Score: 3"
        return ("first", "second", "third")[request.sample[-1]]

    assert answer_of(best_of_n, script, n=3)[0].text == "second"


def test_bon_the_judge_is_asked_in_one_turn_of_the_user_and_is_not_shown_answers_as_its_own() -> None:
    request = Request((Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b")))
    for judging in ("score", "pairwise", "tournament", "select"):
        _, backend = answer_of(best_of_n, lambda r: f"draw {r.sample}", request, judging=judging)
        judged = [r for r in backend.requests if "<conversation>" in r.text]
        assert judged
        assert all([message.role for message in r.messages] == ["user"] for r in judged)


def test_bon_a_failure_is_raised_and_not_repeated() -> None:
    def refuse(request: Request) -> str:
        raise AuthenticationFailed("the key is wrong")

    model, backend = scripted(refuse, waves=True)
    with pytest.raises(AuthenticationFailed, match="the key is wrong"):
        run(best_of_n(model, Request.of("Q?"), n=4))
    assert len(backend.requests) <= 4


def test_bon_answers_are_asked_at_once_and_so_are_verdicts() -> None:
    _, backend = answer_of(best_of_n, lambda r: f"draw {r.sample}", n=3)
    assert backend.batches == [3, 3]


# -- mixture_of_agents


def test_moa_a_critique_that_was_cut_off_is_given_as_far_as_it_goes() -> None:
    def script(request: Request) -> Completion:
        if "Criticise each answer" in request.text:
            return Completion("The second errs where it", "length")
        return Completion(f"draft {request.sample}" if request.sample else str(request.messages[0].content))

    completion, _ = answer_of(mixture_of_agents, script, layers=2, critiques=True)
    assert completion.text.endswith("[Critique]\nThe second errs where it\n(cut off here: it was too long)")


def test_moa_missing_drafts_are_not_padded_with_copies() -> None:
    def script(request: Request) -> str:
        return ("only", "", "")[request.sample[-1]] if request.sample else str(request.messages[0].content)

    completion, _ = answer_of(mixture_of_agents, script, layers=2)
    assert re.findall(r"\[Answer \d\]\n(\w+)", completion.text) == ["only"]


def test_moa_the_users_parameters_are_honoured() -> None:
    request = Request.of("Q?", temperature=0.3, top_p=0.5, seed=7, stop=["x"], max_tokens=99)
    _, backend = answer_of(mixture_of_agents, lambda r: f"draft {r.sample}", request)
    assert all(asked.params == request.params for asked in backend.requests)


# -- prover_verifier_game


def _pvg_script(request: Request) -> str:
    """A verifier that is taken in by all that is sneaky, and writes its scores in bold."""
    if "<solution>" in request.text:
        return f"Convincing.\n**Score:** {9 if 'is 13' in request.text else 8}"
    sneaky = "convincing solution" in str(request.messages[0].content)
    return "The answer is 13." if sneaky else "The answer is 12."


def test_pvg_a_deliberately_wrong_answer_is_never_returned() -> None:
    assert answer_of(prover_verifier_game, _pvg_script)[0].answer == "12"


def test_pvg_a_score_in_bold_counts() -> None:
    def script(request: Request) -> str:
        if "<solution>" in request.text:
            return f"Checked.\n**Score:** {8 if 'is 11' in request.text else 2}"
        if "convincing solution" in str(request.messages[0].content):
            return "The answer is 13."
        return f"The answer is {(12, 11, 12)[request.sample[-1]]}."

    assert answer_of(prover_verifier_game, script)[0].answer == "11"


def test_pvg_usage_is_that_of_one_request() -> None:
    def cost(question: str) -> int:
        return run(prover_verifier_game(model, Request.of(question))).usage.calls

    model, _ = scripted(_pvg_script)
    assert [cost("One?"), cost("Two?"), cost("Three?")] == [24, 24, 24]


def test_pvg_all_rounds_are_about_the_users_question() -> None:
    _, backend = answer_of(prover_verifier_game, _pvg_script, "How many eggs?", rounds=3)
    provers = [r for r in backend.requests if "<solution>" not in r.text]
    assert len(provers) == 18
    assert all(r.messages[-1] == Message("user", "How many eggs?") for r in provers)
    verdicts = [r for r in backend.requests if "<solution>" in r.text]
    assert all("user: How many eggs?" in r.text for r in verdicts)


# -- plan_search


def _plansearch_script(request: Request) -> str:
    if "numbered list" in request.text:
        return "Some observations:\n1. It rhymes,\n   always.\n2. It is short.\n3. It is about the sea."
    return f"A poem {request.sample}"


def test_plansearch_a_question_that_is_not_about_code_is_not_answered_in_code() -> None:
    completion, backend = answer_of(plan_search, _plansearch_script, "Write a poem.")
    assert completion.text.startswith("A poem")
    for request in backend.requests:
        assert not re.search(r"\b(?:python|code|program)\b", request.text, re.IGNORECASE)


def test_plansearch_gives_one_completion_and_the_others_beside_it() -> None:
    completion, _ = answer_of(plan_search, _plansearch_script, n=1)
    assert (type(completion), completion.alternatives) == (Completion, ())
    assert len(answer_of(plan_search, _plansearch_script, n=4)[0].alternatives) == 3


def test_plansearch_plans_stand_on_different_observations_each_of_them_whole() -> None:
    _, backend = answer_of(plan_search, _plansearch_script, n=6, rethink=False)
    derived = [r.text for r in backend.requests if "Derive" in r.text]
    assert len(set(derived)) == 6
    assert sum("1. It rhymes,\n   always.\n\n2. It is short.\n\nDerive" in text for text in derived) == 1


# -- genselect: judging by selection


def test_genselect_a_judge_that_always_picks_the_first_decides_nothing() -> None:
    def script(request: Request) -> str:
        return "Verdict: 1" if "[Answer 1]" in request.text else f"draw {request.sample}"

    _, backend = answer_of(best_of_n, script, judging="select", votes=4)
    shown = [r.text.split("[Answer 1]\n")[1].split("\n")[0] for r in backend.requests[4:]]
    assert sorted(shown) == [f"draw ({i},)" for i in range(4)]


def test_genselect_a_tournament_is_one() -> None:
    _, backend = answer_of(best_of_n, lambda r: f"draw {r.sample}", n=8, judging="tournament")
    assert backend.batches == [8, 8, 4, 2]
