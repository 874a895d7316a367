"""Monte Carlo tree search over steps: which path wins and why, and what it takes."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import BadRequest, TechniqueError, UsageError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.monte_carlo_tree_search import monte_carlo_tree_search as mcts

Path = tuple[str, ...]
Draw = Callable[[Path, int], "str | Completion"]


def path_in(request: Request) -> Path:
    """The steps that a prompt shows."""
    shown = request.text.rsplit("<steps>\n", 1)[1].split("\n</steps>")[0]
    return tuple(step.strip() for step in re.split(r"\[Step \d+\]\n", shown)[1:])


def is_step(request: Request) -> bool:
    return "Write the next step only" in request.text


def is_verdict(request: Request) -> bool:
    return "Score: <number>" in request.text


def world(step: Draw, points: Callable[[Path], object], written: str | Completion = "written") -> Any:
    """A script: steps by path and draw, verdicts by path (text is a verdict as it is), one written answer."""

    def script(request: Request) -> str | Completion:
        path = path_in(request)
        if is_step(request):
            return step(path, request.sample[-1])
        if is_verdict(request):
            said = points(path)
            return said if isinstance(said, str) else f"Looks so.\nScore: {said}"
        return written

    return script


def numbered(path: Path, draw: int) -> str:
    return f"step {'.'.join([*(step.split()[-1] for step in path[-1:]), str(draw)])}"


def trap(path: Path, draw: int) -> str:
    """The first step "left" looks good and leads nowhere; only "right" and then "turn" is right."""
    if not path:
        return ("left", "right")[draw % 2]
    if len(path) == 1:
        return ("turn", "wait")[draw % 2]
    return f"Final answer: {path[0]}, {path[1]}"


def trapped(path: Path) -> int:
    good: dict[Path, int] = {("left",): 8, ("right",): 6, ("right", "turn"): 10}
    return 10 if path[:2] == ("right", "turn") else good.get(path, 1)


def test_deeper_search_leaves_the_step_that_only_looks_good() -> None:
    options: dict[str, Any] = {"branching": 2, "parallel": 1, "exploration": 0.7}
    greedy, _ = answer_of(mcts, world(trap, trapped, "written"), simulations=2, **options)
    assert greedy.text == "written"
    searched, backend = answer_of(mcts, world(trap, trapped), simulations=24, **options)
    assert searched.text == "right\n\nturn\n\nFinal answer: right, turn"
    assert searched.usage.calls == len(backend.requests)


def test_the_first_choice_stands_where_nothing_is_searched_below_it() -> None:
    _, backend = answer_of(mcts, world(trap, trapped), simulations=2, branching=2, parallel=1)
    assert path_in(backend.requests[-1]) == ("left",)


def test_other_scores_make_another_path_win() -> None:
    def otherwise(path: Path) -> int:
        return {("left",): 2, ("left", "wait"): 10}.get(path[:2], 1)

    options: dict[str, Any] = {"branching": 2, "parallel": 1, "exploration": 0.7, "simulations": 24}
    winner, _ = answer_of(mcts, world(trap, otherwise), **options)
    assert winner.text.startswith("left\n\nwait")


def test_scores_are_weighed_against_exploration_on_a_scale_from_0_to_1() -> None:
    _, backend = answer_of(
        mcts, world(numbered, lambda path: 10 * (path[0] == "step 1")), simulations=60, branching=2, depth=9
    )
    below = [path_in(request)[0] for request in backend.requests if is_step(request) and path_in(request)]
    assert below.count("step 1") > 2 * below.count("step 0") > 0


def test_calls_and_waves() -> None:
    completion, backend = answer_of(mcts, world(numbered, lambda path: 5))
    assert backend.batches == [3, 3, 4, 4, 1, 1, 1]
    assert completion.usage.calls == 17
    words = sum(len(message.text.split()) for request in backend.requests for message in request.messages)
    assert completion.usage.prompt_tokens == words


def test_siblings_are_different_draws_and_every_call_is_asked_once() -> None:
    _, backend = answer_of(mcts, world(numbered, lambda path: 5), Request.of("Q?").draw(7))
    assert len(set(backend.requests)) == len(backend.requests)
    assert all(request.sample[0] == 7 for request in backend.requests)
    first = [request.sample for request in backend.requests if is_step(request) and not path_in(request)]
    assert first == [(7, 0), (7, 1), (7, 2)]


def test_equal_siblings_are_one_step() -> None:
    def same(path: Path, draw: int) -> str:
        return "Think  about it." if draw % 2 else "think about IT."

    _, backend = answer_of(mcts, world(same, lambda path: 5), simulations=12, depth=9)
    verdicts = [path_in(request) for request in backend.requests if is_verdict(request)]
    steps = [path_in(request) for request in backend.requests if is_step(request)]
    assert sorted(map(len, verdicts)) == [1, 2, 3, 4]  # one node at each depth, judged once
    assert sorted(map(len, steps)) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_an_unreadable_verdict_is_neither_the_worst_nor_a_half() -> None:
    def first_steps(path: Path, draw: int) -> str:
        return "Final answer: " + "abc"[draw]

    def winner(*verdicts: object) -> str:
        judged = world(first_steps, lambda path: verdicts["abc".index(path[0][-1])])
        return answer_of(mcts, judged, simulations=3)[0].text[-1]

    assert winner("No idea.", 1, 2) == "c"  # it counts as the average, 1.5
    assert winner("No idea.", 9, 8) == "b"
    assert winner("No idea.", "Nor I.", "Nor I.") == "a"
    assert winner("No idea.", 0, 0) == "a"


def test_a_verdict_that_was_cut_off_is_missing() -> None:
    def judge(request: Request) -> Completion:
        return Completion("Score: 10", "length") if "blue" in request.text else Completion("Score: 6")

    model, _ = scripted(world(lambda path, draw: f"Final answer: {('red', 'blue')[draw]}", lambda path: 0))
    arbiter, _ = scripted(judge)
    assert run(mcts(model, Request.of("Q"), simulations=2, branching=2, judge=arbiter)).text == "Final answer: red"


def test_a_step_that_is_blank_or_cut_off_is_asked_for_again() -> None:
    def faulty(path: Path, draw: int) -> str | Completion:
        broken = {0: " \n", 1: Completion("Final answer: but", "length")}
        return broken.get(draw, "Final answer: 4")

    completion, backend = answer_of(mcts, world(faulty, lambda path: 5), simulations=4, branching=1, parallel=1)
    assert completion.text == "Final answer: 4"
    assert [request.sample for request in backend.requests if is_step(request)] == [(0,), (1,), (2,)]


def test_nothing_but_blank_steps_is_an_error_and_ends() -> None:
    with pytest.raises(TechniqueError, match="blank or cut off"):
        answer_of(mcts, world(lambda path, draw: "", lambda path: 5))


@pytest.mark.parametrize(
    "params", [{"max_tokens": 5}, {"stop": ("x",)}, {"json_schema": Json.of({"type": "object"})}, {"logprobs": True}]
)
def test_an_answer_of_a_certain_form_is_written_with_all_that_was_asked(params: dict[str, Any]) -> None:
    request = Request.of("Q?", temperature=0.5).with_params(**params)
    long = "Final answer: a text of more than five tokens and bytes"
    written = Completion("cut", "length")
    completion, backend = answer_of(mcts, world(lambda path, draw: long, lambda path: 5, written), request)
    assert (completion.text, completion.finish_reason) == ("cut", "length")
    assert backend.requests[-1].params == request.params
    assert all(r.params.temperature == 0.5 and r.params.max_tokens is None for r in backend.requests if is_step(r))


def test_a_short_answer_within_the_limit_needs_no_further_call() -> None:
    request = Request.of("Q?").with_params(max_tokens=50)
    completion, backend = answer_of(mcts, world(lambda path, draw: "Final answer: 4", lambda path: 5), request)
    assert (completion.text, completion.usage.calls) == ("Final answer: 4", 4)
    assert not any("write the answer itself" in request.text for request in backend.requests)


def test_judge_and_steps_see_the_whole_conversation() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([picture, {"type": "text", "text": "Second?"}])),
    )
    tool = Json.of({"type": "function", "function": {"name": "f"}})
    request = Request(turns, tools=(tool,))
    completion, backend = answer_of(mcts, world(numbered, lambda path: 5), request)
    for asked in backend.requests:
        everything = "\n".join(message.text for message in asked.messages)
        assert all(said in everything for said in ("Be kind.", "First?", "One.", "Second?"))
        assert any(
            "image_url" in message.content.text for message in asked.messages if isinstance(message.content, Json)
        )
        if not is_verdict(asked):
            assert asked.messages[:3] == turns[:3]
    assert [bool(asked.tools) for asked in backend.requests[-2:]] == [False, True]
    assert completion.text == "written"


def test_a_bare_prompt_works() -> None:
    def script(request: Request) -> str:
        return "Score: 5" if request.prompt is None else f"Final answer: {request.sample}"

    assert answer_of(mcts, script, Request(prompt="Once"))[0].text == "Final answer: (0,)"


def test_a_rollout_goes_on_before_the_judge_scores_and_is_kept_for_the_answer() -> None:
    def slow(path: Path, draw: int) -> str:
        return "Final answer: 9" if len(path) == 2 else f"go {len(path)}"

    completion, backend = answer_of(
        mcts, world(slow, lambda path: 5), simulations=1, branching=1, rollout=True, parallel=1
    )
    assert completion.text == "go 0\n\ngo 1\n\nFinal answer: 9"
    assert len(path_in(next(filter(is_verdict, backend.requests)))) == 3
    assert [request.sample for request in backend.requests if is_step(request)] == [(0,), (1, 0), (1, 0)]


def test_agreement_among_answers_can_stand_for_a_judge() -> None:
    said = {0: "The answer is 7.", 1: "The answer is 8.", 2: "The answer is $8.00."}

    def script(request: Request) -> str:
        return f"step {request.sample[-1]}" if is_step(request) else said[int(path_in(request)[0][-1])]

    completion, backend = answer_of(mcts, script, simulations=3, depth=1, value="agreement")
    assert (completion.text, completion.answer) == (said[1], "8")
    assert backend.batches == [3, 3]
    assert not any(map(is_verdict, backend.requests))


def test_each_new_path_gets_an_answer_of_its_own() -> None:
    _, backend = answer_of(
        mcts, world(lambda path, draw: f"go {len(path)}", lambda path: 5, "7"), simulations=3, branching=1, parallel=1,
        value="agreement",
    )  # fmt: skip
    answers = [request for request in backend.requests if not is_step(request)]
    assert [len(path_in(request)) for request in answers] == [4, 4, 4]  # from the same steps, three times
    assert len({request.sample for request in answers}) == 3


def test_an_answer_that_was_cut_off_is_written_anew() -> None:
    def script(request: Request) -> str | Completion:
        if is_step(request):
            return "go"
        return Completion("The answer is 7. And", "length") if request.sample else "The answer is 7. And that is it."

    completion, _ = answer_of(mcts, script, value="agreement")
    assert (completion.text, completion.answer) == ("The answer is 7. And that is it.", "7")


def test_what_is_agreed_on_has_the_form_that_was_asked_for() -> None:
    request = Request.of("Q?").with_params(json_schema=Json.of({"type": "object"}))
    texts = ('{"a": 1}', '{"a": 2}', '{ "a":2 }')

    def script(request: Request) -> str:
        if is_step(request):
            return f"Final answer: {request.sample[-1]}"
        assert request.params.json_schema is not None
        return texts[int(path_in(request)[0][-1])]

    assert answer_of(mcts, script, request, simulations=3, value="agreement")[0].text == '{"a": 2}'


def test_a_verifier_says_what_answers_are_worth() -> None:
    def worth(answer: Completion) -> float | None:
        return {"Final answer: 1": 0.1, "Final answer: 2": 0.9}.get(answer.text)

    script = world(lambda path, draw: f"Final answer: {draw}", lambda path: "not asked")
    completion, backend = answer_of(mcts, script, simulations=3, verifier=worth)
    assert completion.text == "Final answer: 2"
    assert backend.batches == [3]
    with pytest.raises(UsageError, match="the verifier gave 3"):
        answer_of(mcts, script, verifier=lambda answer: 3)


def test_a_failed_call_fails_the_search_as_itself() -> None:
    def script(request: Request) -> str:
        if is_verdict(request) and "step 1" in request.text:
            raise BadRequest("refused")
        return "Score: 5" if is_verdict(request) else numbered(path_in(request), request.sample[-1])

    with pytest.raises(BadRequest, match="refused"):
        answer_of(mcts, script)


@pytest.mark.parametrize("value", ["judge", "agreement"])
def test_the_answer_does_not_depend_on_which_call_ends_first(value: str) -> None:
    def once(seed: int) -> Completion:
        async def script(request: Request) -> str:
            for _ in range(hash((seed, request)) % 9):
                await asyncio.sleep(0)
            if is_step(request):
                return ["a", "b", "A", "Final answer: 3", "Final answer: 4"][
                    (sum(request.sample) + len(request.text)) % 5
                ]
            return f"Score: {len(request.text) % 11}"

        model, _ = scripted(script)
        return run(mcts(model, Request.of("Q"), simulations=20, value=value))

    assert all(once(seed) == once(0) for seed in range(1, 6))


@pytest.mark.parametrize(
    ("option", "value"),
    [("simulations", 0), ("branching", 0), ("depth", -1), ("parallel", 0), ("exploration", -0.1), ("value", "x")],
)
def test_bad_options_are_named_before_any_call(option: str, value: Any) -> None:
    model, backend = scripted(lambda request: "x")
    with pytest.raises(UsageError, match=f"{option}='?{value}"):
        run(mcts(model, Request.of("Q"), **{option: value}))
    with pytest.raises(UsageError, match="kind"):
        run(mcts(model, Request.of("Q"), kind="nubmer"))
    assert not backend.requests
