"""Choosing among options: by log-probability, by constraint, or asked in words."""

from typing import Any

import pytest
from tests.prompting.llm.test_text import able

import shoal
from shoal import llm
from shoal.errors import InvalidOutput, Unsupported, UsageError
from shoal.runtime.types import Completion, Request, TokenLogprob

SCORES = {" yes": [-1.0, -1.0], " no": [-1.5], " perhaps": [-0.6, -0.6, -0.6]}


def forced(request: Request) -> Completion:
    """An engine that writes the one choice there is, and says how likely it found each token."""
    (option,) = request.params.choices
    assert request.params.logprobs
    return Completion(option, logprobs=tuple(TokenLogprob("", score) for score in SCORES[option]))


def scoring() -> Any:
    return able(forced, choices=True, logprobs=True, forced_logprobs=True)[0]


def test_texts_are_scored() -> None:
    scores = shoal.run(llm.score_text("q", list(SCORES)), model=scoring())
    assert [round(score, 6) for score in scores] == [-2.0, -1.5, -1.8]
    mean = shoal.run(llm.score_text("q", list(SCORES), normalise=True), model=scoring())
    assert [round(score, 6) for score in mean] == [-1.0, -1.5, -0.6]


def test_options_are_ranked_and_selected() -> None:
    options = list(SCORES)
    ranked = shoal.run(llm.rank("q", options), model=scoring())
    assert [(scored.option, scored.index) for scored in ranked] == [(" no", 1), (" perhaps", 2), (" yes", 0)]
    assert len(shoal.run(llm.rank("q", options, top_k=2), model=scoring())) == 2
    selection = shoal.run(llm.select_scored("q", options, normalise=True), model=scoring())
    assert (selection.option, selection.index, len(selection.scores)) == (" perhaps", 2, 3)
    assert shoal.run(llm.select("q", options), model=scoring()) == " no"
    assert shoal.run(llm.select("q", options, method="logprobs", normalise=True), model=scoring()) == " perhaps"


def test_a_tie_goes_to_the_first() -> None:
    model, _ = able(
        lambda request: Completion(request.params.choices[0], logprobs=(TokenLogprob("", -1.0),)),
        choices=True,
        logprobs=True,
        forced_logprobs=True,
    )
    for _ in range(5):
        assert shoal.run(llm.select_scored("q", ["b", "a"]), model=model).option == "b"


def test_an_engine_that_writes_something_else_is_caught() -> None:
    model, _ = able(lambda request: Completion("else"), choices=True, logprobs=True, forced_logprobs=True)
    with pytest.raises(InvalidOutput, match="asked to score 'a', the backend wrote 'else'"):
        shoal.run(llm.score_text("q", ["a"]), model=model)


def test_without_scores_the_text_is_constrained() -> None:
    model, backend = able(lambda request: "b", choices=True)
    assert shoal.run(llm.select("q", ["a", "b"], temperature=0.0), model=model) == "b"
    assert backend.requests[0].params.choices == ("a", "b")
    model, _ = able(lambda request: "else", choices=True)
    with pytest.raises(InvalidOutput, match="held to 2 options, the backend wrote 'else'"):
        shoal.run(llm.select("q", ["a", "b"]), model=model)
    with pytest.raises(Unsupported, match="cannot score"):
        shoal.run(llm.rank("q", ["a", "b"]), model=model)


def test_without_constraints_one_is_asked_for_and_checked() -> None:
    said = iter(["It depends.", " 'B'. "])
    model, backend = able(lambda request: next(said))
    assert shoal.run(llm.select("Which?", ["a", "b"]), model=model) == "b"
    assert "Which?" in backend.requests[0].text
    assert "- a\n- b" in backend.requests[0].text
    model, backend = able(lambda request: "neither")
    with pytest.raises(InvalidOutput, match="none of the 2 options: 'neither'"):
        shoal.run(llm.select([{"role": "user", "content": "Which?"}], ["a", "b"], method="asked"), model=model)
    assert len(backend.requests) == 3


@pytest.mark.parametrize("options", [[], ["a", "a"], [""], "ab", [1]])
def test_options_that_make_no_choice_are_refused(options: Any) -> None:
    model, _ = able(lambda request: "a", choices=True)
    with pytest.raises(UsageError):
        shoal.run(llm.select("q", options), model=model)
    with pytest.raises(UsageError, match="method 'best'"):
        shoal.run(llm.select("q", ["a"], method="best"), model=model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said", "chosen"),
    [
        (["-1", "1"], "-1", "-1"),
        (["US", "us"], "US", "US"),
        (["A*", "A"], "A*", "A*"),
        (["U.S.", "UK"], "U.S.", "U.S."),
    ],
)
def test_an_option_is_meant_as_it_is_written_before_all(options: list[str], said: str, chosen: str) -> None:
    model, _ = able(lambda request: said)
    assert shoal.run(llm.select("q", options), model=model) == chosen
