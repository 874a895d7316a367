"""What holds for every technique of the catalogue, whatever it does."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.scripting import run, scripted

from shoal.errors import ServerError, TechniqueError, Unsupported, UsageError
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Json, Message, Request, total
from shoal.techniques import TECHNIQUES
from shoal.techniques.self_consistency import self_consistency

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = Json.of({"id": "call_1", "type": "function", "function": {"name": "weigh", "arguments": '{"what": "tin"}'}})
TOOL = Json.of({"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}})
SCHEMA = Json.in_order({"type": "object", "properties": {"kg": {"type": "number"}}})
CONVERSATION = Request(
    (
        Message("system", "You are a grocer."),
        Message("user", Json.of([PICTURE, {"type": "text", "text": "What is in the tin?"}])),
        Message("assistant", None, tool_calls=(CALL,)),
        Message("tool", "0.4 kg of plums", tool_call_id="call_1"),
        Message("assistant", "Plums."),
        Message("user", "How heavy are ten tins?"),
    )
)

every_technique = pytest.mark.parametrize("slug", TECHNIQUES)


def plausible(request: Request) -> str:
    """A reply that reads as a score, an answer and a list, and differs from draw to draw."""
    listed = f"1. Look at {len(request.text)}.\n2. Think of {request.sample}."
    return f"{listed}\nScore: 5\nThe answer is {sum(request.sample) % 3}."


def asked(
    slug: str, request: Request, script: Callable[[Request], Any] = plausible
) -> tuple[Completion, list[Request]]:
    model, backend = scripted(script)
    return run(TECHNIQUES[slug].function(model, request)), backend.requests


@every_technique
def test_usage_is_the_sum_of_every_call(slug: str) -> None:
    paid = []

    def script(request: Request) -> str:
        paid.append(len(plausible(request).split()))
        return plausible(request)

    completion, requests = asked(slug, CONVERSATION, script)
    assert completion.usage.completion_tokens == sum(paid)
    assert completion.usage.calls == len(paid) == len(requests)
    assert total(alternative.usage for alternative in completion.alternatives).calls == 0


@every_technique
def test_the_conversation_reaches_the_model_whole(slug: str) -> None:
    _, requests = asked(slug, CONVERSATION)
    whole = [r for r in requests if all(m in r.messages for m in CONVERSATION.messages[2:5])]
    assert whole, "no call holds the conversation as it was"
    for request in whole:
        assert "You are a grocer." in request.messages[0].text
        assert any(isinstance(m.content, Json) and PICTURE in m.content.value() for m in request.messages)
        assert any("How heavy are ten tins?" in m.text for m in request.messages)
    for request in requests:  # nobody is asked about a picture without the picture
        if "What is in the tin?" in "".join(m.text for m in request.messages):
            assert any(isinstance(m.content, Json) and PICTURE in m.content.value() for m in request.messages)


@every_technique
def test_a_bare_prompt_is_answered(slug: str) -> None:
    completion, requests = asked(slug, Request(prompt="Ten tins of 0.4 kg weigh"))
    assert completion.text
    assert any((r.prompt or "").startswith("Ten tins") or "Ten tins" in (r.prompt or r.text) for r in requests)


@every_technique
@pytest.mark.parametrize(
    "params", [{"json_schema": SCHEMA}, {"stop": ("\n\n",)}, {"choices": ("4", "5")}, {"logprobs": True}], ids=str
)
def test_the_form_of_the_answer_is_asked_for_or_refused(slug: str, params: dict[str, Any]) -> None:
    wanted = CONVERSATION.with_params(temperature=0.6, max_tokens=77, **params)
    model, backend = scripted(plausible)
    try:
        run(TECHNIQUES[slug].function(model, wanted))
    except Unsupported:
        assert not backend.requests
        return
    assert any(request.params == wanted.params for request in backend.requests)


@every_technique
def test_tools_can_be_called_or_are_refused(slug: str) -> None:
    def script(request: Request) -> Completion | str:
        if request.tools:
            return Completion("", finish_reason="tool_calls", tool_calls=(CALL,))
        return plausible(request)

    wanted = Request(CONVERSATION.messages, tools=(TOOL,))
    model, backend = scripted(script)
    try:
        completion = run(TECHNIQUES[slug].function(model, wanted))
    except Unsupported:
        assert not backend.requests
        return
    assert completion.tool_calls == (CALL,)
    assert completion.finish_reason == "tool_calls"


@every_technique
def test_a_failed_call_fails_the_whole_with_its_own_error(slug: str) -> None:
    _, requests = asked(slug, CONVERSATION)
    for index in {0, len(requests) // 2, len(requests) - 1}:
        failing = requests[index]

        def script(request: Request, failing: Request = failing) -> str:
            if request == failing:
                raise ServerError("down", retryable=False)
            return plausible(request)

        with pytest.raises(ServerError, match="down"):
            asked(slug, CONVERSATION, script)


@every_technique
def test_nothing_said_is_never_made_into_an_answer(slug: str) -> None:
    try:
        completion, _ = asked(slug, CONVERSATION, lambda r: "")
    except TechniqueError:
        return
    assert not completion.text.strip()
    assert not completion.answer


@every_technique
def test_an_answer_that_was_cut_off_says_so(slug: str) -> None:
    try:
        completion, _ = asked(slug, CONVERSATION, lambda r: Completion("Each tin weighs", finish_reason="length"))
    except TechniqueError:
        return
    assert completion.finish_reason == "length"


@every_technique
def test_the_order_in_which_calls_finish_changes_nothing(slug: str) -> None:
    def once(turns: Callable[[Request], int]) -> Completion:
        async def script(request: Request) -> str:
            for _ in range(turns(request)):
                await asyncio.sleep(0)
            return plausible(request)

        return asked(slug, CONVERSATION, script)[0]

    first, *others = [once(lambda r, k=k: hash((r, k)) % 17) for k in range(3)]  # type: ignore[misc]
    for other in others:
        assert (other.text, other.answer, other.alternatives) == (first.text, first.answer, first.alternatives)


@every_technique
def test_every_call_belongs_to_the_draw_that_was_asked(slug: str) -> None:
    _, requests = asked(slug, CONVERSATION.draw(3, 1))
    assert {request.sample[:2] for request in requests} == {(3, 1)}


@every_technique
def test_a_cancelled_technique_leaves_nothing_under_way(slug: str) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def script(request: Request) -> str:
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()
            return ""

        model, backend = scripted(script)
        task = asyncio.ensure_future(TECHNIQUES[slug].function(model, CONVERSATION))
        while not backend.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@every_technique
def test_a_technique_on_a_technique_is_a_model_too(slug: str) -> None:
    model, _ = scripted(plausible)
    nested = apply(TECHNIQUES[slug].function, apply(self_consistency, model, n=2))
    assert run(nested(CONVERSATION)).text


@every_technique
def test_counts_below_one_are_refused_before_anything_is_asked(slug: str) -> None:
    for name, default in TECHNIQUES[slug].options.items():
        if type(default) is not int:
            continue
        model, backend = scripted(plausible)
        with pytest.raises(UsageError, match=f"{name}=-1"):
            run(TECHNIQUES[slug].function(model, CONVERSATION, **{name: -1}))
        assert not backend.requests, name
