"""Reading calls of tools: the forms that are known, what is no call, and what of a stream is surely text."""

import json
from typing import Any

import pytest
from tests.backends.tools_contract import CLOCK, WEATHER, named

from shoal.backends.tool_calls import Before, Form, Found, as_wire, forced, form_of, read
from shoal.backends.tools import tools_of
from shoal.errors import BadRequest
from shoal.runtime.types import Json, Message, Request, sampling_params

ONE = Found("weather", '{"city": "Oslo", "at": 1e3}')
WRITTEN = '{"name": "weather", "arguments": {"city": "Oslo", "at": 1e3}}'


@pytest.mark.parametrize(
    ("form", "text", "before", "count"),
    [
        ("hermes", f"<tool_call>\n{WRITTEN}\n</tool_call>", "", 1),
        ("hermes", f"\n<tool_call>{WRITTEN}</tool_call>\n<tool_call>{WRITTEN}</tool_call>", "", 2),
        ("hermes", f"Wait. <tool_call>{WRITTEN}", "Wait. ", 1),  # a stop string may take the end
        ("hermes", f"<tool_call>[{WRITTEN}, {WRITTEN}]</tool_call>", "", 2),
        ("llama3_json", WRITTEN.replace("arguments", "parameters"), "", 1),
        ("llama3_json", f"<|python_tag|>{WRITTEN}; {WRITTEN}", "", 2),
    ],
)
def test_calls_in_the_known_forms(form: Form, text: str, before: str, count: int) -> None:
    assert read(form, text) == (before, [ONE] * count)


@pytest.mark.parametrize("form", ["hermes", "llama3_json"])
@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "No call.",
        WRITTEN[:-1],
        '{"city": "Oslo"}',
        '{"name": 3, "arguments": {}}',
        '{"name": "weather", "arguments": ["Oslo"]}',
        '{"name": "weather", "arguments": "Oslo"}',
        '{"name": "weather"}',
        '{"name": "weather", "arguments": ' + "[" * 100_000,
        '{"name": "weather", "arguments": ' + '{"a":' * 100_000,
    ],
)
def test_what_is_no_whole_call_stays_text(form: Form, wrong: str) -> None:
    several = {
        "hermes": (f"<tool_call>{wrong}</tool_call>", f"<tool_call>{WRITTEN}</tool_call><tool_call>{wrong}"),
        "llama3_json": (wrong, f"{WRITTEN}; {wrong or 'and so on'}"),
    }
    for text in several[form]:
        assert read(form, text) == (text, [])


@pytest.mark.parametrize("form", ["hermes", "llama3_json"])
@pytest.mark.parametrize(
    "text",
    [
        f"Wait. <tool_call>{WRITTEN}</tool_call>",
        f"\n <tool_call>{WRITTEN}</tool_call>",
        "a < b, <tool> and <tool_call>nothing",
        WRITTEN,
        "{no call}",
        "<|python",
        " Hello",
    ],
)
def test_what_a_stream_shows_is_the_beginning_of_the_text(form: Form, text: str) -> None:
    whole, found = read(form, text)
    before, shown = Before(form), ""
    for letter in text:
        sure = before.feed(letter)
        assert sure.startswith(shown)
        shown = sure
    assert whole.startswith(shown)
    if not found and "{" not in text and "<" not in text:
        assert shown == text


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ('<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>', "hermes"),
        ("<tool_call>\\n<function=example>\\n<parameter=a>", "qwen3_coder"),
        ("<tool_call>{name}\\n<arg_key>a</arg_key>", "glm45"),
        ("[TOOL_CALLS][{", "mistral"),
        ('<|start_header_id|>ipython {{ "parameters": ', "llama3_json"),
        ("<|start_header_id|>assistant", None),
        ("<|im_start|>{{ tools }}", None),
        ("", None),
    ],
)
def test_the_form_is_told_from_the_template(template: str, form: str | None) -> None:
    assert form_of(template) == form


def test_ids_follow_from_the_prompt_and_the_call() -> None:
    first, second = as_wire([ONE, ONE], [1, 2])
    assert as_wire([ONE], [1, 2]) == (first,)
    assert len({first, second, *as_wire([ONE], [1, 3])}) == 3
    assert first.value()["function"] == {"name": "weather", "arguments": ONE.arguments}
    assert as_wire([Found("f", "{}", "123456789")], [1])[0].value()["id"] == "123456789"


def asked(choice: Any = None, *tools: Json, **more: Any) -> Request:
    extra = {**more, **({} if choice is None else {"tool_choice": choice})}
    return Request((Message("user", "x"),), params=sampling_params(extra=extra), tools=tools or (WEATHER, CLOCK))


def test_what_is_forced_is_written_as_the_template_writes_it() -> None:
    for choice, names, once in (("required", ["weather", "clock"], False), (named("clock"), ["clock"], True)):
        tag = json.loads(forced("hermes", "<tool_call>\\n{", tools_of(asked(choice))))["format"]
        assert [each["begin"] for each in tag["tags"]] == [
            f'<tool_call>\n{{"name": "{name}", "arguments": ' for name in names
        ]
        assert {each["end"] for each in tag["tags"]} == {"}\n</tool_call>"}
        assert (tag["separator"], tag["stop_after_first"]) == ("\n", once)
    llama = json.loads(forced("llama3_json", "", tools_of(asked("required", parallel_tool_calls=False))))["format"]
    assert (llama["tags"][0]["begin"], llama["stop_after_first"]) == ('{"name": "weather", "parameters": ', True)


def test_none_and_no_tools_are_alike() -> None:
    assert (
        tools_of(asked("none")) == tools_of(Request.of("x")) == tools_of(Request.of("x", extra={"tool_choice": "auto"}))
    )
    assert tools_of(asked()).choice == "auto"
    for wrong in (
        Json.of({"type": "function"}),
        Json.of({"type": "function", "function": {"name": "f", "parameters": 3}}),
    ):
        with pytest.raises(BadRequest):
            tools_of(asked("auto", wrong))
