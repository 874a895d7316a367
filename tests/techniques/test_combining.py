"""Techniques one after another, side by side and one on another."""

from functools import partial

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import ServerError, UsageError
from shoal.runtime.model import Model, apply, stream
from shoal.runtime.trace import tracing
from shoal.runtime.types import Completion, Delta, Json, Message, Request
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.combining import nested, pipeline, side_by_side
from shoal.techniques.critique import critique
from shoal.techniques.learning_principles import learning_principles
from shoal.techniques.re_reading import re_reading
from shoal.techniques.self_consistency import self_consistency
from shoal.techniques.two_turn import two_turn

PICTURE = {"type": "image_url", "image_url": {"url": "data:x"}}


async def plain(model: Model, request: Request) -> Completion:
    return await model(request)


async def named(model: Model, request: Request, *, name: str) -> Completion:
    reply = await model(request)
    return Completion(f"{name}: {reply.text}", usage=reply.usage)


def scored(request: Request) -> str:
    return f"Score: 5. The answer is {request.sample}."


def test_each_stage_sees_the_conversation_and_the_answer_before_it() -> None:
    turns = (
        Message("system", "S"),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([PICTURE, {"type": "text", "text": "Why {x}?"}])),
    )
    request = Request(turns, tools=(Json.of({"name": "f"}),)).with_params(max_tokens=9, temperature=0.1).draw(3)
    stages = [partial(named, name=name) for name in "abc"]
    completion, backend = answer_of(pipeline, lambda r: f"said {len(r.messages)}", request, stages=stages)
    first, second, third = backend.requests
    assert first == request
    assert second.messages[:4] == third.messages[:4] == turns
    assert [m.role for m in second.messages[4:]] == ["assistant", "user"]
    assert second.messages[4].content == "a: said 4"
    assert third.messages[4].content == "b: said 6"
    assert second.text == third.text
    assert second.text.endswith("Why {x}?")
    for asked in (second, third):
        assert (asked.params, asked.tools, asked.sample) == (request.params, request.tools, (3,))
    assert (completion.text, completion.usage.calls, backend.batches) == ("c: said 6", 3, [1, 1, 1])


def test_stages_are_techniques_with_options_and_show_in_the_trace() -> None:
    stages = [partial(self_consistency, n=3), partial(best_of_n, n=2)]
    model, backend = scripted(scored, waves=True)

    async def traced() -> list[str]:
        with tracing() as root:
            completion = await apply(pipeline, model, stages=stages)(Request.of("Q?"))
        assert completion.usage == root.usage
        return [span.name for span in root.children[0].children]

    assert run(traced()) == ["self_consistency(n=3)", "best_of_n(n=2)"]
    assert backend.batches == [3, 2, 2]


def test_an_empty_answer_is_nothing_to_go_over_and_replaces_none() -> None:
    async def silent(model: Model, request: Request) -> Completion:
        return Completion(" ", usage=(await model(request.draw(9))).usage)

    completion, backend = answer_of(pipeline, lambda r: "x", "Q?", stages=[silent, plain])
    assert backend.requests[1] == Request.of("Q?")
    assert (completion.text, completion.usage.calls) == ("x", 2)
    first = partial(named, name="a")
    completion, backend = answer_of(pipeline, lambda r: "x", "Q?", stages=[first, silent, plain])
    assert backend.requests[2].messages[1].content == "a: x"
    assert (completion.text, completion.usage.calls) == ("x", 3)
    completion, _ = answer_of(pipeline, lambda r: "x", "Q?", stages=[first, silent])
    assert (completion.text, completion.usage.calls) == ("a: x", 2)


def test_a_stage_that_was_cut_off_before_it_said_anything_gave_no_answer() -> None:
    spent = Completion("", "length", reasoning="All was spent on thinking.")
    completion, _ = answer_of(pipeline, lambda r: spent if "Go over" in r.text else "x", stages=[plain, plain])
    assert (completion.text, completion.finish_reason, completion.usage.calls) == ("x", "stop", 2)
    _, backend = answer_of(pipeline, lambda r: spent, stages=[plain, re_reading])
    assert [len(r.messages) for r in backend.requests] == [1, 1]


def test_an_earlier_answer_is_not_taken_for_an_example_nor_the_question_lost() -> None:
    _, backend = answer_of(pipeline, lambda r: "The answer is 3.", "2 + 2?", stages=[plain, learning_principles])
    assert len(backend.requests) == 2
    _, backend = answer_of(pipeline, lambda r: "4", "2 + 2?", stages=[plain, re_reading])
    assert backend.requests[1].text.count("2 + 2?") == 2


def test_bare_prompts_go_through_a_pipeline() -> None:
    _, backend = answer_of(pipeline, lambda r: "because", Request(prompt="Why? "), stages=[plain, plain])
    assert str(backend.requests[1].prompt).startswith("Why? because\n\nGo over")


def test_the_last_stage_streams() -> None:
    async def pieces(combination: object, *stages: object) -> list[str]:
        model, _ = scripted(lambda r: f"said {len(r.messages)}")
        combined = apply(combination, model, stages=stages)  # type: ignore[arg-type]
        return [p.text async for p in stream(combined, Request.of("Q?")) if isinstance(p, Delta)]

    assert run(pieces(pipeline, plain, re_reading)) == ["said ", "3"]
    assert run(pieces(pipeline, re_reading, partial(nested, stages=[re_reading, re_reading]))) == ["said ", "3"]
    assert run(pieces(side_by_side, re_reading, plain)) == ["said ", "1"]
    assert run(pieces(side_by_side, plain, re_reading)) == ["said 1"]


def test_side_by_side_all_answer_at_once_and_none_is_lost() -> None:
    stages = [partial(named, name="a"), re_reading, partial(two_turn, ask="Short?")]
    completion, backend = answer_of(side_by_side, lambda r: "two words", stages=stages)
    assert completion.text == "a: two words"
    assert [other.text for other in completion.alternatives] == ["two words", "two words"]
    assert completion.alternatives[1].answer == "two words"
    assert backend.batches == [2, 1]
    assert (completion.usage.calls, completion.usage.cached_calls) == (3, 1)


def test_draws_in_common_are_asked_once() -> None:
    stages = [partial(self_consistency, n=4), partial(best_of_n, n=3)]
    completion, backend = answer_of(side_by_side, scored, stages=stages)
    assert backend.batches == [4, 3]
    assert (completion.usage.calls, completion.usage.cached_calls) == (7, 3)


def test_alternatives_of_the_first_come_before_the_others() -> None:
    async def two(model: Model, request: Request) -> Completion:
        return Completion("a", alternatives=(Completion("b"),))

    completion, _ = answer_of(side_by_side, lambda r: "c", stages=[two, plain])
    assert [other.text for other in completion.alternatives] == ["b", "c"]


def test_nested_is_one_technique_on_another() -> None:
    stages = [partial(self_consistency, n=2), partial(best_of_n, n=3)]
    _, together = answer_of(nested, scored, stages=stages)
    model, apart = scripted(scored, waves=True)
    run(apply(self_consistency, apply(best_of_n, model, n=3), n=2)("Q?"))
    assert together.requests == apart.requests
    assert together.batches == [6, 6]


def test_a_failed_technique_fails_the_whole_and_stops_the_others() -> None:
    asked: list[int] = []

    async def failing(model: Model, request: Request) -> Completion:
        raise ServerError("down", retryable=False)

    async def endless(model: Model, request: Request) -> Completion:
        while True:
            asked.append(1)
            request = request.draw(len(asked))
            await model(request)

    for combination in (pipeline, side_by_side):
        with pytest.raises(ServerError, match="down"):
            answer_of(combination, lambda r: "x", stages=[failing, endless])
    assert len(asked) <= 1


@pytest.mark.parametrize("combination", [pipeline, side_by_side, nested])
def test_no_stages_is_a_clear_error(combination: object) -> None:
    with pytest.raises(UsageError, match="no stages; at least one technique is needed"):
        answer_of(combination, lambda r: "x", stages=[])  # type: ignore[arg-type]


def test_combinations_are_shown_as_specs_write_them() -> None:
    model, _ = scripted(lambda r: "x", name="local")
    stages = [re_reading, partial(side_by_side, stages=[partial(critique, rounds=2), two_turn])]
    assert repr(apply(pipeline, model, stages=stages)) == "re_reading&(critique(rounds=2)|two_turn)@local"
    assert apply(side_by_side, model, stages=stages).name == "re_reading|(critique(rounds=2)|two_turn)"
    assert apply(nested, model, stages=stages).name == "re_reading@critique(rounds=2)|two_turn"
