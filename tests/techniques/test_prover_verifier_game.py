"""Sneaky solutions measure the verifier and never win; a verifier that they fool is not listened to."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import BadRequest, TechniqueError, UsageError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.prover_verifier_game import prover_verifier_game

Solutions = tuple[str, ...]


def role(request: Request) -> str:
    """Who is asked: "verifier", "helpful" or "sneaky"."""
    if "<solution>" in request.text:
        return "verifier"
    shown = str(request.messages[0].content) if request.messages else str(request.prompt)
    return "sneaky" if "convincing solution" in shown else "helpful"


def solution(request: Request) -> str:
    return request.text.split("<solution>\n")[1].split("\n</solution>")[0]


def game(
    helpful: Solutions,
    sneaky: Solutions,
    scores: Mapping[str, object],
    *,
    later: tuple[Solutions, Solutions] | None = None,
) -> Callable[[Request], str]:
    """What provers say, by draw and, where `later` is given, by round; and the score of each solution."""

    def script(request: Request) -> str:
        if role(request) == "verifier":
            return f"Step by step...\nScore: {scores[solution(request)]}"
        first_round = request.sample[-2] == 0 or later is None
        mine, theirs = (helpful, sneaky) if first_round or later is None else later
        i = request.sample[-1]
        return mine[i] if role(request) == "helpful" else theirs[i - len(mine)]

    return script


def says(*numbers: int) -> Solutions:
    return tuple(f"The answer is {number}." for number in numbers)


def scored(**scores: object) -> dict[str, object]:
    return {f"The answer is {name[1:]}.": points for name, points in scores.items()}


def test_a_verifier_that_tells_them_apart_outvotes_the_majority() -> None:
    script = game(says(4, 5, 5), says(6, 7, 8), scored(_4=9, _5=5, _6=4, _7=1, _8=0))
    completion, backend = answer_of(prover_verifier_game, script, rounds=1)
    assert (completion.text, completion.answer) == ("The answer is 4.", "4")
    assert backend.batches == [6, 6]
    assert completion.usage.calls == 12


def test_a_sneaky_solution_never_wins_however_high_its_score() -> None:
    script = game(says(4, 5, 4), says(6, 7, 8), scored(_4=9, _5=9, _6=10, _7=1, _8=1))
    assert answer_of(prover_verifier_game, script, rounds=1)[0].answer == "4"
    script = game(says(4, 5, 4), says(6, 7, 8), scored(_4=1, _5=2, _6=10, _7=10, _8=10))
    assert answer_of(prover_verifier_game, script, rounds=1)[0].answer == "4"


@pytest.mark.parametrize("of_wrong", [5, 9])
def test_a_verifier_that_cannot_tell_them_apart_gives_way_to_agreement(of_wrong: int) -> None:
    """It rates 5, of one helpful prover, highest; but wrong solutions no lower than right ones."""
    scores = scored(_5=9, _4=5, _6=of_wrong, _7=of_wrong, _8=9)
    assert answer_of(prover_verifier_game, game(says(5, 4, 4), says(6, 7, 8), scores), rounds=1)[0].answer == "4"


def test_separation_says_how_far_they_must_be_apart() -> None:
    """7 of 9 pairs are in order: 5 is above every wrong one, each 3 above two of them."""
    script = game(says(3, 5, 3), says(6, 7, 8), scored(_5=9, _3=5, _6=6, _7=0, _8=0))
    assert answer_of(prover_verifier_game, script, rounds=1, separation=0.77)[0].answer == "5"
    assert answer_of(prover_verifier_game, script, rounds=1, separation=0.8)[0].answer == "3"


def test_a_sneaky_solution_with_the_majoritys_answer_measures_nothing() -> None:
    """Were 4, rated high, taken for wrong, the verifier would seem fooled; it is right, and picks 4 over 5."""
    script = game(says(4, 5, 4, 5, 4), says(4, 4, 6), scored(_4=9, _5=2, _6=1))
    completion, backend = answer_of(prover_verifier_game, script, rounds=1, helpful=5)
    assert completion.answer == "4"
    assert backend.batches == [8, 6]


def test_without_any_wrong_solution_the_verifier_is_not_asked() -> None:
    completion, backend = answer_of(prover_verifier_game, game(says(5, 4, 4), says(4, 4, 4), {}), rounds=1)
    assert (completion.answer, backend.batches) == ("4", [6])


def test_a_sneaky_solution_that_later_rounds_agree_with_no_longer_measures() -> None:
    """5 seems wrong in the first round; the second makes it the majority, so that the scores of the first are void."""
    script = game(says(4, 4, 3), says(5, 5, 5), scored(_3=9, _4=8, _5=1), later=(says(5, 5, 5), ("", "", "")))
    assert answer_of(prover_verifier_game, script, rounds=1)[0].answer == "3"
    assert answer_of(prover_verifier_game, script, rounds=2)[0].answer == "5"


@pytest.mark.parametrize("verdict", ["Fine, I think.", "Score: 8 or 9, Score: 3\n[[7]]", ""])
def test_unreadable_verdicts_are_missing_and_not_zero(verdict: str) -> None:
    scores = scored(_4=3, _6=1)

    def script(request: Request) -> str:
        if role(request) == "verifier" and solution(request) not in scores:
            return verdict
        return game(says(5, 4, 4), says(6, 7, 8), scores)(request)

    completion, _ = answer_of(prover_verifier_game, script, rounds=1)
    assert completion.answer == "4"  # 3 is above 1: the only pair that can be read


def test_a_verdict_that_was_cut_off_is_missing() -> None:
    script = game(says(5, 4, 4), says(6, 7, 8), scored(_5=10, _4=9, _6=1, _7=1, _8=1))

    def cut(request: Request) -> Completion:
        is_verdict = role(request) == "verifier" and solution(request) == "The answer is 5."
        return Completion(script(request), "length" if is_verdict else "stop")

    assert answer_of(prover_verifier_game, cut, rounds=1)[0].answer == "4"


def test_each_round_is_two_steps_and_everything_in_a_step_runs_at_once() -> None:
    script = game(says(4, 4), says(6, 7, 8), scored(_4=9, _6=4, _7=1, _8=0))
    completion, backend = answer_of(prover_verifier_game, script, rounds=3, helpful=2, sneaky=3)
    assert backend.batches == [5] * 6
    assert completion.usage.calls == 30
    words = sum(sum(len(m.text.split()) for m in request.messages) for request in backend.requests)
    assert completion.usage.prompt_tokens == words


def test_the_verifier_learns_from_what_misled_it_and_the_provers_from_what_convinced_it() -> None:
    first = says(4, 4, 5), says(6, 7, 8)
    script = game(*first, scored(_4=9, _5=2, _6=9, _7=1, _8=0, _9=1), later=(says(4, 4, 4), says(9, 9, 9)))
    _, backend = answer_of(prover_verifier_game, script, rounds=2)
    later = [r for r in backend.requests if r.sample[0] == 1]
    asked = {who: [r for r in later if role(r) == who] for who in ("helpful", "sneaky", "verifier")}
    for request in asked["verifier"]:
        assert "[Scored 9]\nThe answer is 6." in request.text
        assert "The answer is 7." not in request.text
    for request in asked["sneaky"]:
        shown = str(request.messages[0].content)
        assert "[Scored 9]\nThe answer is 6." in shown
        assert "arrive at another: 4" in shown
    for request in asked["helpful"]:
        shown = str(request.messages[0].content)
        assert shown.count("[Scored 9]\nThe answer is 4.") == 2
        assert "The answer is 6." not in shown
    assert all(len(players) for players in asked.values())


def test_a_distrusted_verifier_does_not_teach_the_helpful_provers() -> None:
    script = game(says(4, 4, 5), says(6, 7, 8), scored(_4=2, _5=9, _6=9, _7=9, _8=9))
    _, backend = answer_of(prover_verifier_game, script, rounds=2)
    later = [r for r in backend.requests if r.sample[0] == 1 and role(r) == "helpful"]
    assert len(later) == 3
    assert all("[Scored" not in str(r.messages[0].content) for r in later)


def test_the_question_is_the_users_in_every_round_and_his_parameters_too() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([picture, {"type": "text", "text": "Q?"}])),
    )
    request = Request(turns, tools=(Json.of({"name": "t"}),)).with_params(max_tokens=50, stop=("\n\n",)).draw(7)
    script = game(says(4, 4, 5), says(6, 7, 8), scored(_4=9, _5=2, _6=9, _7=1, _8=0))
    _, backend = answer_of(prover_verifier_game, script, request)
    for asked in backend.requests:
        assert asked.sample[0] == 7
        if role(asked) == "verifier":
            for said in ("Be kind.", "First?", "One.", "Q?"):
                assert said in asked.text
            assert isinstance(asked.messages[0].content, Json)
            assert (asked.params.max_tokens, asked.params.temperature, asked.tools) == (None, 0.0, ())
        else:
            assert asked.messages[1:] == turns[1:]
            assert str(asked.messages[0].content).startswith("Be kind.\n\n")
            assert (asked.params, asked.tools) == (request.params, request.tools)
    assert len(set(backend.requests)) == len(backend.requests) == 24


def test_a_bare_prompt_is_played_for_as_well() -> None:
    script = game(says(4, 5, 4), says(6, 7, 8), scored(_4=9, _5=2, _6=1, _7=1, _8=0))
    _, backend = answer_of(prover_verifier_game, script, Request(prompt="2 + 2 ="), rounds=1)
    assert str(backend.requests[0].prompt).endswith("\n\n2 + 2 =")


def test_free_text_is_judged_by_the_verifier_alone() -> None:
    poems = ("Roses are red,\nand so on and on.", "The sea,\nit is wide and it rolls.", "Violets,\nmostly blue.")
    bad = ("One two\nthree, this is prose.", "A poem\nwithout any rhyme.", "Lorem\nipsum dolor.")
    scores = dict(zip(poems + bad, (4, 8, 6, 3, 2, 1), strict=True))
    completion, _ = answer_of(prover_verifier_game, game(poems, bad, scores), rounds=1)
    assert (completion.text, completion.answer) == (poems[1], None)


def test_empty_and_cut_off_solutions() -> None:
    """The empty helpful one cannot win; the cut-off sneaky one does not measure; the rest does."""
    script = game(("", *says(5, 4)), says(6, 7, 8), scored(_4=7, _5=3, _6=1, _7=1, _8=10))

    def cut(request: Request) -> Completion:
        text = script(request)
        return Completion(text, "length" if text == "The answer is 8." else "stop")

    completion, backend = answer_of(prover_verifier_game, cut, rounds=1)
    assert (completion.answer, backend.batches) == ("4", [6, 4])


def test_a_cut_off_solution_does_not_win_a_tie() -> None:
    def script(request: Request) -> Completion:
        if role(request) == "verifier":
            return Completion("no idea")
        return Completion("A poem about\n" + str(request.sample[-1]), "length" if request.sample[-1] == 0 else "stop")

    completion, _ = answer_of(prover_verifier_game, script, rounds=1)
    assert (completion.text, completion.finish_reason) == ("A poem about\n1", "stop")


def test_a_cut_off_solution_is_better_than_an_empty_one() -> None:
    def script(request: Request) -> Completion:
        return Completion("" if request.sample[-1] != 1 else "A poem\nabout", "length")

    assert answer_of(prover_verifier_game, script, rounds=1)[0].text == "A poem\nabout"


def test_nothing_but_empty_solutions_is_an_error() -> None:
    with pytest.raises(TechniqueError, match="all 6 helpful replies are empty"):
        answer_of(prover_verifier_game, lambda r: "")


def test_another_model_can_verify() -> None:
    script = game(says(4, 5, 5), says(6, 7, 8), scored(_4=9, _5=5, _6=4, _7=1, _8=0))
    model, proving = scripted(script)
    verifier, verifying = scripted(script)
    assert run(prover_verifier_game(model, Request.of("Q?"), rounds=1, verifier=verifier)).answer == "4"
    assert {role(r) for r in proving.requests} == {"helpful", "sneaky"}
    assert {role(r) for r in verifying.requests} == {"verifier"}


def test_a_failed_call_fails_as_itself() -> None:
    def script(request: Request) -> str:
        if role(request) == "sneaky":
            raise BadRequest("I will not deceive")
        return "The answer is 4."

    with pytest.raises(BadRequest, match="not deceive"):
        answer_of(prover_verifier_game, script)


def test_the_answer_does_not_depend_on_the_order_in_which_replies_come() -> None:
    def late(delays: int) -> Callable[[Request], Awaitable[str]]:
        async def script(request: Request) -> str:
            for _ in range(sum(request.sample) * delays % 5):
                await asyncio.sleep(0)
            if role(request) == "verifier":
                found = re.search(r"\d", solution(request))
                return f"Score: {9 - int(found[0]) if found else 0}"
            return f"The answer is {sum(request.sample) % 7}."

        return script

    def once(delays: int) -> Completion:
        return run(prover_verifier_game(scripted(late(delays))[0], Request.of("Q?")))

    assert len({once(delays) for delays in range(4)}) == 1


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"helpful": 0}, {"sneaky": 0}, {"separation": 0.5}, {"separation": 1.1}, {"kind": "x"}]
)
def test_bad_options_are_refused_before_any_call(options: dict[str, Any]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        run(prover_verifier_game(model, Request.of("Q?"), **options))
    assert backend.requests == []
