"""rStar: what each action asks and when it may, the tree's rewards, and whose trajectory is chosen."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import BadRequest, TechniqueError, UsageError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques import _tree
from shoal.techniques._tree import Node
from shoal.techniques.rstar import _Search, _Thought, rstar

MARKS = {
    "A1": "Write the next step only",
    "A2": "Go on from there",
    "A3": "Write only the next smaller question",
    "A4": "Answer this smaller question alone",
    "A5": "say in your own words",
    "write": "write the answer itself",
}


def action_of(request: Request) -> str:
    return next(action for action, mark in MARKS.items() if mark in request.text)


def steps_in(request: Request) -> list[str]:
    shown = request.text.rsplit("<steps>\n", 1)[1].split("\n</steps>")[0]
    return [step.strip() for step in re.split(r"\[Step \d+\]\n", shown)[1:]]


def is_discriminating(request: Request) -> bool:
    return action_of(request) == "A2" and "[Step 1]" not in request.text and len(request.sample) > 1


def actions(**said: str | Completion | Callable[[Request], str | Completion]) -> Callable[[Request], str | Completion]:
    """A script that says, for each action, a fixed text or what a function gives; `D` is for the discriminator."""
    usual: dict[str, Any] = {
        "A1": lambda request: f"step {request.sample}",
        "A2": "So it is.\nFinal answer: 5",
        "A3": lambda request: f"Question: what {request.sample}?\nAnswer: this {request.sample}",
        "A4": lambda request: f"that {request.sample}",
        "A5": "it is asked what it is",
        "write": "written",
    }
    usual["D"] = said.get("A2", usual["A2"])
    usual.update(said)

    def script(request: Request) -> str | Completion:
        what = usual["D" if is_discriminating(request) else action_of(request)]
        found: str | Completion = what(request) if callable(what) else what
        return found

    return script


def test_the_actions_have_the_papers_preconditions() -> None:
    _, backend = answer_of(rstar, actions(), rollouts=80, depth=4)
    seen = set()
    for request in backend.requests:
        if is_discriminating(request):
            continue
        action, steps = action_of(request), [] if action_of(request) in ("A4", "A5") else steps_in(request)
        seen.add(action)
        if action == "A5":
            assert len(request.sample) == 1  # of the root alone
        if action == "A4":
            assert "<question>\nQuestion: what" in request.text
            assert f"what {request.sample[:-1]}?" in request.text  # of the sub-question that came just before
            assert f"this {request.sample[:-1]}" not in request.text  # and without the answer it had
        if len(request.sample) == 4:
            assert action == "A2"
        assert sum(step.startswith("The task in other words") for step in steps[1:]) == 0
    assert seen == {"A1", "A2", "A3", "A4", "A5"}


def test_a_new_answer_to_a_sub_question_takes_the_place_of_the_old() -> None:
    _, backend = answer_of(rstar, actions(), rollouts=80, depth=4)
    after = [steps for r in backend.requests if action_of(r) == "A1" and (steps := steps_in(r)) and "that" in steps[-1]]
    assert after
    for steps in after:
        assert re.fullmatch(r"Question: what \(.*\)\?\nAnswer: that \(.*\)", steps[-1])
        assert len({step.split("\n")[0] for step in steps}) == len(steps)  # no sub-question stands there twice


def test_every_rollout_ends_in_an_answer_and_the_tree_is_one() -> None:
    grown: list[Node[Any]] = []

    class Watched(_Search):
        def rewards(self, leaves: Any) -> Any:
            grown[:] = leaves
            return super().rewards(leaves)

    model, _ = scripted(actions())
    search = Watched(model, Request.of("Q"), 2, 5, "auto")
    root = Node(_Thought("", ()), search.actions("", 0))
    leaves = run(_tree.search(root, 40, 4, 1.4, search.expand, search.rewards))
    assert leaves == grown
    assert all(leaf.content.reply and not leaf.children for leaf in leaves)
    assert root.visits == 40
    assert len(root.children) == 6
    assert max(len(leaf.place) for leaf in leaves) >= 4
    assert any(len(child.children) > 1 for child in root.children)  # later rollouts went on below earlier ones
    for leaf in leaves:  # the reward reached the leaf and all above
        assert all(node.visits and node.mean == 1.0 for node in leaf.path)


def test_what_the_discriminator_arrives_at_as_well_goes_before_the_majority() -> None:
    def finished(request: Request) -> str:
        return "Hm.\nFinal answer: 8" if request.sample == (1,) else "Hm.\nFinal answer: 9"

    model, _ = scripted(actions(A2=finished, D="It is so.\nFinal answer: 8"))
    completion = run(rstar(model, Request.of("Q"), rollouts=8))
    assert (completion.answer, completion.text) == ("8", "Hm.\n\nFinal answer: 8".replace("\n\n", "\n"))
    agreeing, _ = scripted(actions(D="Final answer: 9.0"))
    majority = run(rstar(model, Request.of("Q"), rollouts=8, discriminator=agreeing))
    assert majority.answer == "9"


def test_where_the_discriminator_agrees_with_none_the_best_reward_wins() -> None:
    def finished(request: Request) -> str:
        return f"Final answer: {'x' if request.sample == (1,) else 'y'}"

    completion, _ = answer_of(rstar, actions(A2=finished, D="Final answer: z"), rollouts=8)
    assert completion.answer == "y"


def test_the_discriminator_sees_a_beginning_that_does_not_tell_the_answer() -> None:
    def finished(request: Request) -> str:
        work = "One is one. Two is two.\nThree is three. Four is four. Five is 5."
        return f"{work}\nFinal answer: 77\n{'It is 77, really. ' * 30}"

    model, _ = scripted(actions(A2=finished))
    judge, judging = scripted(actions(A2=finished))
    run(rstar(model, Request.of("Q"), rollouts=12, discriminator=judge))
    shown = [r.text.rsplit("<steps>\n", 1)[1].split("\n</steps>")[0] for r in judging.requests]
    assert all("77" not in text for text in shown)
    direct = [text for text in shown if text.startswith("One is one.")]
    assert direct
    assert all("Five is 5." not in text for text in direct)
    assert len(set(judging.requests)) == len(judging.requests)


def test_a_trajectory_is_chosen_by_its_reward_times_its_confidence() -> None:
    model, _ = scripted(actions(D="Final answer: none of these"))
    search = _Search(model, Request.of("Q"), 2, 5, "auto")
    root = Node(_Thought("", ()))
    ends = []
    for i, (form, mean) in enumerate([("x", 0.9), ("y", 0.5), ("y", 0.7)]):
        end = root.grow(i, _Thought("A2", (form,), Completion(form), form, form), [])
        end.visits, end.scored, end.total = 1, 1, mean
        ends.append(end)
    # 0.9 * 1/3 < 0.5 * 2/3 < 0.7 * 2/3
    assert run(search.chosen(ends, model)) is ends[2]


def test_calls_and_waves() -> None:
    completion, backend = answer_of(rstar, actions(), rollouts=4, depth=2, branching=1)
    # four actions at once; each but the direct answer goes on; then every trajectory is checked at once
    assert backend.batches == [4, 3, 4]
    assert completion.usage.calls == 11
    words = sum(len(message.text.split()) for request in backend.requests for message in request.messages)
    assert completion.usage.prompt_tokens == words
    assert len(set(backend.requests)) == len(backend.requests)


def test_the_text_is_the_whole_trajectory() -> None:
    def final(request: Request) -> str:
        return "Final answer: six" if steps_in(request) else "first, this"

    completion, _ = answer_of(rstar, actions(A1=final, A2="", A3="", A5=""), rollouts=30)
    assert (completion.text, completion.answer) == ("first, this\n\nFinal answer: six", "six")


def test_a_form_that_was_asked_for_is_written_in_the_end() -> None:
    tool = Json.of({"type": "function", "function": {"name": "f"}})
    call = Completion("", "tool_calls", tool_calls=(Json.of({"name": "f"}),))
    request = Request(Request.of("Q?").messages, tools=(tool,)).with_params(max_tokens=9, temperature=0.3)
    completion, backend = answer_of(rstar, actions(write=call), request)
    assert completion.tool_calls == call.tool_calls
    assert completion.answer == "5"
    *before, last = backend.requests
    assert (last.tools, last.params) == (request.tools, request.params)
    assert all(not r.tools and r.params.max_tokens is None and r.params.temperature == 0.3 for r in before)


def test_steps_and_discriminator_keep_the_conversation() -> None:
    turns = (Message("system", "Be kind."), Message("user", "A?"), Message("assistant", "B."), Message("user", "C?"))
    _, backend = answer_of(rstar, actions(), Request(turns).draw(3))
    assert any(map(is_discriminating, backend.requests))
    for asked in backend.requests:
        assert asked.messages[:3] == turns[:3]
        assert asked.messages[3].text.startswith("C?")
        assert asked.sample[0] == 3


def test_a_bare_prompt_works() -> None:
    assert answer_of(rstar, lambda request: "Final answer: 1", Request(prompt="Once"))[0].answer == "1"


def test_blank_and_broken_replies_are_no_steps() -> None:
    broken = Completion("Final answer: 6", "length")
    completion, _ = answer_of(rstar, actions(A1=broken, A3=" ", A5=broken), rollouts=12)
    assert completion.answer == "5"
    with pytest.raises(TechniqueError, match="none of 3 rollouts"):
        answer_of(rstar, lambda request: "", rollouts=3)


def test_a_trajectory_that_was_cut_off_does_not_stand_as_the_answer() -> None:
    cut = Completion("I think that 3 and", "length")
    completion, backend = answer_of(rstar, actions(A2=cut), rollouts=6)
    assert (completion.text, completion.answer, completion.finish_reason) == ("written", None, "stop")
    assert not any(map(is_discriminating, backend.requests))


def test_an_answer_that_was_cut_off_is_written_anew() -> None:
    cut = Completion("Work.\nFinal answer: 6", "length")
    completion, _ = answer_of(rstar, actions(A2=cut), rollouts=3)
    assert (completion.text, completion.finish_reason) == ("written", "stop")


def test_a_step_that_was_cut_off_is_not_gone_on_from() -> None:
    _, backend = answer_of(rstar, actions(A1=Completion("half a tho", "length")), rollouts=30)
    assert not any("half a tho" in request.text for request in backend.requests)


def test_a_whole_trajectory_goes_before_one_that_was_cut_off() -> None:
    def finished(request: Request) -> Completion:
        cut = request.sample == (1,)  # the first to end
        return Completion("this breaks", "length") if cut else Completion("this is a long essay " * 9)

    _, backend = answer_of(rstar, actions(A1="", A2=finished), rollouts=5, depth=2)
    assert action_of(backend.requests[-1]) == "write"
    assert steps_in(backend.requests[-1])[-1].startswith("this is a long essay")


def test_without_any_short_answer_the_earliest_whole_trajectory_is_taken() -> None:
    essay = "A long essay about the sea and the many ships on it, which says nothing short at all.\n" * 3
    completion, _ = answer_of(rstar, actions(A2=essay), rollouts=3)
    assert (completion.text, completion.answer) == ("written", None)


def test_a_failed_call_fails_the_whole_as_itself() -> None:
    def refused(request: Request) -> str:
        raise BadRequest("refused")

    for failing in ("A3", "D"):
        with pytest.raises(BadRequest, match="refused"):
            answer_of(rstar, actions(**{failing: refused}))


def test_the_answer_does_not_depend_on_which_call_ends_first() -> None:
    said = actions(A2=lambda request: f"Final answer: {len(request.text) % 5}", A1=lambda r: "ab"[sum(r.sample) % 2])

    def once(seed: int) -> Completion:
        async def script(request: Request) -> str | Completion:
            for _ in range(hash((seed, request)) % 9):
                await asyncio.sleep(0)
            return said(request)

        model, _ = scripted(script)
        return run(rstar(model, Request.of("Q"), rollouts=30, parallel=6))

    assert all(once(seed) == once(0) for seed in range(1, 6))


@pytest.mark.parametrize(
    ("option", "value"), [("rollouts", 0), ("branching", 0), ("depth", 0), ("parallel", -1), ("exploration", -1.0)]
)
def test_bad_options_are_named_before_any_call(option: str, value: Any) -> None:
    model, backend = scripted(lambda request: "x")
    with pytest.raises(UsageError, match=f"{option}={value}"):
        run(rstar(model, Request.of("Q"), **{option: value}))
    with pytest.raises(UsageError, match="kind"):
        run(rstar(model, Request.of("Q"), kind="nubmer"))
    assert not backend.requests
