"""Subsets of observations lead to plans, each plan to an answer, and no branch waits for another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import BadRequest, TechniqueError, UsageError
from shoal.runtime.types import Completion, Json, Message, Request
from shoal.techniques.plan_search import plan_search

STEPS = {
    "First make observations": "observe",
    "new observations from them": "derive",
    "Make a plan of the answer": "plan",
    "Suppose that this plan is wrong": "rethink",
    "Here is a plan of the answer": "answer",
    "<answer>": "judge",
}


def step(request: Request) -> str:
    """Which call of the search this is."""
    return next(name for words, name in STEPS.items() if words in request.text)


def known(request: Request) -> str:
    """The observations that a call is shown, on one line."""
    shown = request.text.split("about my last message:\n\n")[1].split("\n\nDerive")[0].split("\n\nMake a plan")[0]
    return " ".join(line.split(". ", 1)[-1] for line in shown.split("\n") if line)


def search(request: Request) -> str:
    """Observations a, b, c; derived ones are marked with what they come from; plans and answers say what they use."""
    match step(request):
        case "observe":
            return "1. a\n2. b\n3. c\n4. never looked at"
        case "derive":
            found = known(request).replace(" ", "+")
            return f"- {found}/x\n- {found}/y\n- {found}/z"
        case "plan":
            return f"plan({known(request)})"
        case "rethink":
            return f"It may fail.\n**New plan:** not {request.messages[-2].content}"
        case "answer":
            return "via " + request.text.split("<plan>\n")[1].split("\n</plan>")[0] + "\nwhich is\nall."
        case _:
            return "Score: 5"


def routes(completion: Completion) -> list[str]:
    return [c.text.split("\n")[0].removeprefix("via ") for c in (completion, *completion.alternatives)]


def test_subsets_of_one_come_before_subsets_of_two_and_each_gives_a_plan() -> None:
    completion, backend = answer_of(plan_search, search, n=6, rethink=False)
    assert routes(completion) == [
        "plan(a a/x)",
        "plan(b b/x)",
        "plan(c c/x)",
        "plan(a b a+b/x)",
        "plan(a c a+c/x)",
        "plan(b c b+c/x)",
    ]
    assert backend.batches == [1, 6, 6, 6]
    assert completion.usage.calls == 19


def test_more_plans_use_further_subsets_of_second_order_observations() -> None:
    """There is a and the empty subset; and to each again one observation and the empty subset: four plans, not six."""
    completion, backend = answer_of(plan_search, search, n=6, observations=1, rethink=False)
    assert routes(completion) == ["plan(a a/x)", "plan(a)", "plan(a)", "plan((none))"]
    assert backend.batches == [1, 2, 4, 4]


def test_rethinking_doubles_the_plans() -> None:
    completion, backend = answer_of(plan_search, search, n=5)
    assert routes(completion) == [
        "plan(a a/x)",
        "not plan(a a/x)",
        "plan(b b/x)",
        "not plan(b b/x)",
        "plan(c c/x)",
    ]
    assert backend.batches == [1, 3, 3, 3 + 2, 2]
    assert completion.usage.calls == 14
    rethought = next(r for r in backend.requests if step(r) == "rethink")
    assert [m.role for m in rethought.messages] == ["user", "assistant", "user"]


def test_pairs_of_second_order_observations_come_last() -> None:
    completion, _ = answer_of(plan_search, search, n=49, rethink=False)
    found = routes(completion)
    assert len(found) == 49
    assert found.index("plan(b b/x)") < found.index("plan(a a/y)") < found.index("plan(a a/x a/y)")
    assert found.index("plan(a a/x a/y)") < found.index("plan(b c b+c/y b+c/z)")


def saying(*answers: int, observe: str = "1. a\n2. b\n3. c") -> Callable[[Request], str]:
    """A search whose answers, in the order of their plans, are these numbers."""

    def script(request: Request) -> str:
        if step(request) == "observe":
            return observe
        if step(request) == "answer":
            return f"The answer is {answers[request.sample[0]]}."
        return search(request)

    return script


def test_the_answer_most_plans_agree_on_wins_and_the_others_are_alternatives() -> None:
    completion, _ = answer_of(plan_search, saying(3, 5, 5), n=3, rethink=False)
    assert (completion.text, completion.answer) == ("The answer is 5.", "5")
    assert [c.text for c in completion.alternatives] == ["The answer is 5.", "The answer is 3."]


def test_a_judge_outvotes_agreement_and_an_unreadable_score_ranks_last() -> None:
    def judging(request: Request) -> str:
        return "Wrong.\nScore: 0" if "is 3." in request.text else "Right.\nScore: 9" if "is 7." in request.text else "?"

    model, searching = scripted(saying(5, 5, 7, 3))
    judge, judged = scripted(judging)
    completion = run(plan_search(model, Request.of("Q?"), n=4, rethink=False, judge=judge))
    assert completion.answer == "7"
    assert [c.text[-2:] for c in completion.alternatives] == ["3.", "5.", "5."]
    assert (len(searching.requests), len(judged.requests)) == (1 + 4 + 4 + 4, 4)
    assert "user: Q?" in judged.requests[0].text
    assert judged.requests[0].params.temperature == 0.0
    assert "plan" not in judged.requests[0].text


def test_with_a_judge_the_critical_path_is_one_longer() -> None:
    model, backend = scripted(search, waves=True)
    # at the judge's temperature, since a wire request holds draws of equal parameters only
    run(plan_search(model, Request.of("Q?", temperature=0.0), n=2, judge=model))
    assert backend.batches == [1, 1, 1, 2, 2, 1]


def test_no_branch_waits_for_another() -> None:
    """The branch of b answers while that of a has not got its second-order observations."""
    order: list[str] = []

    async def script(request: Request) -> str:
        if step(request) == "derive" and known(request) == "a":
            for _ in range(200):
                await asyncio.sleep(0)
        order.append(f"{step(request)} {request.sample[:1]}")
        return search(request)

    run(plan_search(scripted(script)[0], Request.of("Q?"), n=2, rethink=False))
    assert order.index("answer (1,)") < order.index("derive (0,)")


def test_a_reply_without_a_list_is_one_observation() -> None:
    completion, backend = answer_of(plan_search, saying(1, 1, observe="All swans\nare white."), n=2, rethink=False)
    derived = next(r for r in backend.requests if step(r) == "derive")
    assert "1. All swans\nare white.\n" in derived.text
    assert completion.answer == "1"


def test_blank_observations_are_missing() -> None:
    def script(request: Request) -> str:
        return "" if step(request) in ("observe", "derive") else search(request) if step(request) == "answer" else "P"

    completion, backend = answer_of(plan_search, script, n=8)
    assert routes(completion) == ["P", "P"]
    assert backend.batches == [1, 1, 1, 2, 1]


def test_a_blank_plan_gives_no_answer_and_a_cut_off_one_is_marked() -> None:
    def script(request: Request) -> Completion:
        if step(request) == "plan" and request.sample[0] == 0:
            return Completion(" ")
        return Completion(search(request), "length" if step(request) == "plan" else "stop")

    completion, backend = answer_of(plan_search, script, n=2, rethink=False)
    assert routes(completion) == ["plan(b b/x)"]
    answered = [r for r in backend.requests if step(r) == "answer"]
    assert "plan(b b/x)\n(cut off here" in answered[0].text


def test_empty_answers_are_left_out_and_cut_off_ones_do_not_win_a_tie() -> None:
    def script(request: Request) -> Completion:
        if step(request) != "answer":
            return Completion(search(request))
        return (Completion(""), Completion("half\nof\nit", "length"), Completion("all\nof\nit"))[request.sample[0]]

    completion, _ = answer_of(plan_search, script, n=3, rethink=False)
    assert (completion.text, completion.finish_reason) == ("all\nof\nit", "stop")
    assert [c.finish_reason for c in completion.alternatives] == ["length"]


def test_nothing_but_empty_answers_is_an_error() -> None:
    with pytest.raises(TechniqueError, match="replies were empty"):
        answer_of(plan_search, lambda r: "")


def test_the_conversation_stays_and_only_answers_are_of_the_users_form() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([picture, {"type": "text", "text": "Q?"}])),
    )
    request = Request(turns, tools=(Json.of({"name": "t"}),)).with_params(max_tokens=50, temperature=0.5).draw(7)
    _, backend = answer_of(plan_search, search, request)
    for asked in backend.requests:
        assert asked.messages[:3] == turns[:3]
        assert "image_url" in str(asked.messages[3].content)
        assert asked.messages[3].text.startswith("Q?")
        assert asked.sample[0] == 7
        form = (asked.params.max_tokens, asked.tools)
        assert form == ((50, request.tools) if step(asked) == "answer" else (None, ()))
        assert asked.params.temperature == 0.5
    assert len(set(backend.requests)) == len(backend.requests) == 21


def test_usage_is_the_sum_of_all_calls() -> None:
    completion, backend = answer_of(plan_search, search)
    words = sum(sum(len(m.text.split()) for m in request.messages) for request in backend.requests)
    assert (completion.usage.calls, completion.usage.prompt_tokens) == (len(backend.requests), words)


def test_a_failed_call_fails_as_itself() -> None:
    def script(request: Request) -> str:
        if step(request) == "rethink":
            raise BadRequest("too long")
        return search(request)

    with pytest.raises(BadRequest, match="too long"):
        answer_of(plan_search, script)


def test_the_answer_does_not_depend_on_the_order_in_which_replies_come() -> None:
    def late(delays: int) -> Callable[[Request], Awaitable[str]]:
        async def script(request: Request) -> str:
            for _ in range(sum(request.sample) * delays % 7):
                await asyncio.sleep(0)
            return f"The answer is {sum(request.sample) % 3}." if step(request) == "answer" else search(request)

        return script

    assert len({run(plan_search(scripted(late(delays))[0], Request.of("Q?"))) for delays in range(4)}) == 1


@pytest.mark.parametrize("options", [{"n": 0}, {"observations": 0}, {"kind": "x"}])
def test_bad_options_are_refused_before_any_call(options: dict[str, Any]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        run(plan_search(model, Request.of("Q?"), **options))
    assert backend.requests == []
