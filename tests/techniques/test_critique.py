"""Draft, critique, rewrite: each sees all that came before it."""

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.backends.scripted import Script
from shoal.errors import ServerError, UsageError
from shoal.runtime.model import apply, stream
from shoal.runtime.types import Completion, Delta, Json, Message, Request
from shoal.techniques.critique import critique
from shoal.techniques.two_turn import two_turn

PICTURE = {"type": "image_url", "image_url": {"url": "data:x"}}


def stage(request: Request) -> str:
    if "Criticise the draft" in request.text:
        return "critique"
    return "rewrite" if "Write the answer anew" in request.text else "draft"


def in_stages(draft: Completion | str, verdict: Completion | str, rewrite: Completion | str) -> Script:
    return lambda request: {"draft": draft, "critique": verdict, "rewrite": rewrite}[stage(request)]


def test_question_draft_and_critique_reach_the_reviser() -> None:
    completion, backend = answer_of(critique, in_stages("It is 41.", "Add one.", "It is 42."), "6 x 7?")
    assert (completion.text, completion.usage.calls, backend.batches) == ("It is 42.", 3, [1, 1, 1])
    _, judged, revised = backend.requests
    assert "6 x 7?" in judged.text
    assert "<draft>\nIt is 41.\n</draft>" in judged.text
    assert revised.text.startswith("6 x 7?")
    assert "<draft>\nIt is 41.\n</draft>" in revised.text
    assert "<critique>\nAdd one.\n</critique>" in revised.text
    assert completion.usage.prompt_tokens == sum(len(r.text.split()) for r in backend.requests)


def test_each_round_works_on_what_the_one_before_wrote() -> None:
    def script(request: Request) -> str:
        return f"{stage(request)} {sum('<draft>' in r.text for r in backend.requests)}"

    model, backend = scripted(script, waves=True)
    completion = run(critique(model, Request.of("Q?").draw(5), rounds=2))
    assert backend.batches == [1] * 5
    assert [stage(r) for r in backend.requests] == ["draft", "critique", "rewrite", "critique", "rewrite"]
    assert "rewrite 2" in backend.requests[3].text
    assert "rewrite 2" in backend.requests[4].text
    assert "draft 0" not in backend.requests[4].text
    assert completion.text == "rewrite 4"
    assert [r.sample for r in backend.requests] == [(5,), (5, 0), (5, 0), (5, 1), (5, 1)]


def test_the_conversation_is_kept_and_the_users_form_is_for_draft_and_rewrite() -> None:
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([PICTURE, {"type": "text", "text": "Q?"}])),
    )
    tool = Json.of({"name": "f"})
    request = Request(turns, tools=(tool,)).with_params(max_tokens=9, stop=("\n",), temperature=1.0)
    _, backend = answer_of(critique, in_stages("a", "b", "c"), request)
    draft, judged, revised = backend.requests
    assert draft == request
    for said in ("Be kind.", "First?", "One.", "Q?"):
        assert said in judged.text
    assert isinstance(judged.messages[0].content, Json)
    assert (judged.params.max_tokens, judged.params.stop, judged.params.temperature, judged.tools) == (None, (), 0, ())
    assert revised.messages[:-1] == turns[:-1]
    assert isinstance(revised.messages[-1].content, Json)
    assert revised.messages[-1].content.value()[0] == PICTURE
    assert (revised.params, revised.tools) == (request.params, (tool,))


def test_a_result_of_a_tool_stays_where_it_is() -> None:
    turns = (
        Message("user", "How warm?"),
        Message("assistant", tool_calls=(Json.of({"id": "1"}),)),
        Message("tool", "21", tool_call_id="1"),
    )
    _, backend = answer_of(critique, in_stages("a", "b", "c"), Request(turns))
    assert backend.requests[2].messages[:3] == turns
    assert backend.requests[2].messages[3].role == "user"


def test_other_models_can_criticise_and_revise_techniques_among_them() -> None:
    model, drafting = scripted(in_stages("draft", "", ""))
    critic, judging = scripted(in_stages("", "critique", ""))
    reviser, revising = scripted(lambda r: "short" if r.messages[-1].text.startswith("Now give") else "long")
    both = apply(critique, apply(two_turn, model), critic=critic, reviser=apply(two_turn, reviser))
    completion = run(both("Q?"))
    assert (completion.text, completion.answer) == ("long", "short")
    assert [len(b.requests) for b in (drafting, judging, revising)] == [2, 1, 2]
    assert completion.usage.calls == 5


def test_an_empty_rewrite_does_not_replace_the_draft() -> None:
    for rewrite in (" ", Completion("", "length", reasoning="All was spent on thinking.")):
        completion, _ = answer_of(critique, in_stages("whole", "bad", rewrite))
        assert (completion.text, completion.finish_reason, completion.usage.calls) == ("whole", "stop", 3)


def test_a_rewrite_that_was_cut_off_says_so_and_the_draft_is_kept_beside_it() -> None:
    completion, _ = answer_of(critique, in_stages("whole", "bad", Completion("part", "length")))
    assert (completion.text, completion.finish_reason) == ("part", "length")
    assert [other.text for other in completion.alternatives] == ["whole"]
    assert answer_of(critique, in_stages("whole", "bad", "fine"))[0].alternatives == ()


def test_a_draft_that_is_empty_or_cut_off_is_worked_on_all_the_same() -> None:
    assert answer_of(critique, in_stages("", "Nothing is there.", "fine"))[0].text == "fine"
    _, backend = answer_of(critique, in_stages(Completion("It is", "length"), "", "fine"))
    assert "It is\n(cut off here" in backend.requests[1].text
    assert "It is\n(cut off here" in backend.requests[2].text


def test_a_call_of_a_tool_is_a_draft_and_a_rewrite() -> None:
    call = Json.of({"function": {"name": "f"}})
    called = Completion("", "tool_calls", tool_calls=(call,))
    completion, backend = answer_of(critique, in_stages(called, "Good.", called))
    assert completion.tool_calls == (call,)
    assert call.text in backend.requests[1].text


def test_the_last_rewrite_streams() -> None:
    async def pieces() -> list[object]:
        model, _ = scripted(lambda r: f"the {stage(r)}")
        return [piece async for piece in stream(apply(critique, model, rounds=2), Request.of("Q?"))]

    assert [piece.text for piece in run(pieces()) if isinstance(piece, Delta)] == ["the ", "rewrite"]


@pytest.mark.parametrize("rewrite", [Completion("", "length", reasoning="All was spent on thinking."), " \n"])
def test_where_the_draft_remains_the_answer_its_text_comes_in_a_stream_too(rewrite: Completion | str) -> None:
    async def pieces() -> list[object]:
        model, _ = scripted(in_stages("the draft", "bad", rewrite))
        return [piece async for piece in stream(apply(critique, model), Request.of("Q?"))]

    *deltas, last = run(pieces())
    assert isinstance(last, Completion)
    assert "".join(piece.text for piece in deltas if isinstance(piece, Delta)).strip() == last.text == "the draft"


def test_mistakes_and_failures() -> None:
    with pytest.raises(UsageError, match="rounds=0"):
        answer_of(critique, stage, rounds=0)

    def script(request: Request) -> str:
        if stage(request) == "critique":
            raise ServerError("down", retryable=False)
        return "x"

    with pytest.raises(ServerError, match="down"):
        answer_of(critique, script)
