"""What engines that call tools keep: on any model what they force, on one that was taught to call what it writes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs
from tests.backends.contract import STORY, EngineContract, draw, of
from tests.scripting import run
from tests.server.serving import Reply, serving

from shoal.backends import BaseModel
from shoal.errors import BadRequest
from shoal.runtime.backend import Backend
from shoal.runtime.concurrency import gather
from shoal.runtime.model import stream
from shoal.runtime.types import Completion, Delta, Json, Message, Request


def tool(name: str, description: str, parameters: dict[str, Any]) -> Json:
    return Json.in_order(
        {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
    )


def closed(**properties: Any) -> dict[str, Any]:
    """The schema of an object of these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


CITIES = ("Lyon", "Nice")
WEATHER = tool("weather", "the weather of a city", closed(city={"enum": CITIES}))
CLOCK = tool("clock", "the time", closed(zone={"enum": ["UTC", "CET"]}))

KEPT: dict[str, list[dict[str, Any]]] = {
    "weather": [{"city": city} for city in CITIES],
    "clock": [{"zone": zone} for zone in ("UTC", "CET")],
}


def asked(text: str, *tools: Json, choice: Any = None, **params: Any) -> Request:
    extra = {**params.pop("extra", {}), **({} if choice is None else {"tool_choice": choice})}
    request = of(text, **{"temperature": 0.0, "max_tokens": 120, "extra": extra or None, **params})
    return structs.replace(request, tools=tools or (WEATHER,))


def named(function: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": function}}


def calls(completion: Completion) -> list[tuple[str, dict[str, Any]]]:
    """The calls of a reply, in the API's shape, each with its arguments."""
    found = []
    for call in map(Json.value, completion.tool_calls):
        assert call.keys() == {"id", "type", "function"}
        assert call["type"] == "function"
        assert call["id"]
        found.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
    assert len({call.value()["id"] for call in completion.tool_calls}) == len(found)
    return found


class ToolsContract(EngineContract):
    """For an engine that can call tools, on the taught model."""

    def test_a_call_is_read(self, model: BaseModel) -> None:
        called = run(model(asked("Weather in Lyon?")))
        assert calls(called) == [("weather", {"city": "Lyon"})]
        assert (called.text, called.finish_reason) == ("", "tool_calls")
        assert called.usage.completion_tokens > 20

    def test_the_same_call_has_the_same_id_and_another_has_another(self, backend: Backend) -> None:
        one, same, other = (draw(backend, asked(f"Weather in {city}?"))[0] for city in ("Lyon", "Lyon", "Nice"))
        assert one.tool_calls == same.tool_calls
        assert one.tool_calls[0].value()["id"] != other.tool_calls[0].value()["id"]

    def test_text_before_several_calls_is_kept(self, model: BaseModel) -> None:
        called = run(model(asked("Weather in Lyon and Nice?")))
        assert called.text == "I look. "
        assert calls(called) == [("weather", {"city": "Lyon"}), ("weather", {"city": "Nice"})]

    def test_each_draw_has_its_own_calls(self, backend: Backend) -> None:
        drawn = draw(backend, asked("Weather in Nice?", temperature=0.2), 3)
        assert [calls(completion) for completion in drawn] == [[("weather", {"city": "Nice"})]] * 3
        assert [completion.finish_reason for completion in drawn] == ["tool_calls"] * 3

    @pytest.mark.parametrize(
        ("question", "text", "count"),
        [
            ("Weather in Lyon?", "", 1),
            ("Weather in Lyon and Nice?", "I look. ", 2),
            ("Weather in France?", "<tool_call>weather in France</tool_call>", 0),
        ],
    )
    def test_a_stream_shows_the_text_and_ends_with_the_calls(
        self, model: BaseModel, question: str, text: str, count: int
    ) -> None:
        async def main() -> tuple[list[str], Completion]:
            *deltas, last = [piece async for piece in stream(model, asked(question))]
            assert isinstance(last, Completion)
            return [delta.text for delta in deltas if isinstance(delta, Delta)], last

        pieces, last = run(main())
        whole = run(model(asked(question)))
        assert "".join(pieces) == last.text == whole.text == text
        assert len(calls(last)) == count
        assert last.tool_calls == whole.tool_calls
        assert last.finish_reason == whole.finish_reason

    def test_text_streams_before_the_calls_are_there(self, backend: Backend) -> None:
        async def main() -> list[str]:
            return [part.text async for part in backend.stream(asked("Weather in Lyon and Nice?"))]

        *pieces, last = run(main())
        assert len(pieces) > 2
        assert "".join(pieces) == last

    def test_what_is_no_whole_call_is_text(self, model: BaseModel) -> None:
        wrong = run(model(asked("Weather in France?")))
        assert (wrong.text, wrong.tool_calls) == ("<tool_call>weather in France</tool_call>", ())
        cut, other = run(gather(model(asked("Weather in Lyon?", max_tokens=12)), model(asked("Weather in Nice?"))))
        assert (cut.finish_reason, cut.tool_calls) == ("length", ())
        assert calls(other) == [("weather", {"city": "Nice"})]

    def test_an_answer_from_what_a_tool_has_said(self, model: BaseModel) -> None:
        question = asked("Weather in Lyon?")
        called = run(model(question))
        said = Message("tool", "rain", tool_call_id=called.tool_calls[0].value()["id"])
        turns = (*question.messages, Message("assistant", None, tool_calls=called.tool_calls), said)
        answer = run(model(structs.replace(question, messages=turns)))
        assert (answer.text, answer.finish_reason, answer.tool_calls) == ("It is rain.", "stop", ())

    def test_with_tool_choice_none_the_model_sees_no_tools(self, model: BaseModel) -> None:
        answer = run(model(asked("Weather in Lyon?", choice="none")))
        assert (answer.text, answer.finish_reason, answer.tool_calls) == ("I look in vain.", "stop", ())

    def test_tools_are_in_the_count(self, model: BaseModel) -> None:
        question = asked("Weather in Lyon?")
        counted = run(model.count_tokens(question))
        assert counted == run(model(question)).usage.prompt_tokens
        assert counted > run(model.count_tokens(asked("Weather in Lyon?", choice="none")))

    def test_a_call_may_be_required(self, model: BaseModel) -> None:
        called = run(model(asked(STORY, WEATHER, CLOCK, choice="required", max_tokens=400)))
        found = calls(called)
        assert found
        for name, arguments in found:
            assert arguments in KEPT[name]
        assert (called.text, called.finish_reason) == ("", "tool_calls")

    def test_a_function_may_be_named(self, model: BaseModel) -> None:
        for function, kept in KEPT.items():
            called = run(model(asked(STORY, WEATHER, CLOCK, choice=named(function), temperature=1.0)))
            ((name, arguments),) = calls(called)
            assert name == function
            assert arguments in kept
            assert (called.text, called.finish_reason) == ("", "tool_calls")

    def test_one_call_at_most_where_several_are_not_wanted(self, model: BaseModel) -> None:
        alone = {"parallel_tool_calls": False}
        for choice in ("auto", "required"):
            called = run(model(asked("Weather in Lyon and Nice?", choice=choice, extra=alone)))
            assert len(calls(called)) == 1

    def test_a_served_model_answers_with_calls_as_the_api_has_them(self, model: BaseModel) -> None:
        async def main() -> list[Reply]:
            body: dict[str, Any] = {"tools": [WEATHER.value()], "temperature": 0, "max_tokens": 120}
            ways: list[dict[str, Any]] = [{}, {"stream": True}, {"parallel_tool_calls": False}]
            async with serving({"m": model}) as client:  # which lets the model go when it ends
                asked = [body | more for more in (*ways, {"tool_choice": named("nobody")})]
                return [await client.chat("m", "Weather in Lyon and Nice?", **each) for each in asked]

        whole, stream, alone, refused = run(main())
        functions = [{"name": "weather", "arguments": f'{{"city": "{city}"}}'} for city in CITIES]
        (choice,) = whole.json["choices"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "I look. ")
        assert [call["function"] for call in choice["message"]["tool_calls"]] == functions
        *chunks, done = stream.events
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert done == "[DONE]"
        assert "".join(delta.get("content", "") for delta in deltas) == "I look. "
        called = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [call.pop("index") for call in called] == [0, 1]
        assert called == choice["message"]["tool_calls"]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        (only,) = alone.json["choices"]
        assert [call["function"] for call in only["message"]["tool_calls"]] == functions[:1]
        assert refused.status == 400

    @pytest.mark.parametrize(
        ("wrong", "why"),
        [
            (lambda: asked("x", choice=named("nobody")), "no tool has the name 'nobody'"),
            (lambda: asked("x", choice="perhaps"), "tool_choice is"),
            (lambda: structs.replace(asked("x", choice="required"), tools=()), "there are no tools"),
            (lambda: asked("x", Json.of({"type": "web_search"})), "a tool is"),
            (lambda: asked("x", choice="required", regex="a"), "constraint on"),
            (lambda: Request(prompt="x", tools=(WEATHER,)), "need a conversation"),
            (lambda: asked("x", tool("odd", "", closed(n={"multipleOf": 3})), choice=named("odd")), "cannot keep"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(self, model: BaseModel, wrong: Callable[[], Request], why: str) -> None:
        with pytest.raises(BadRequest, match=why):
            run(model(wrong()))
