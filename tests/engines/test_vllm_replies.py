"""Replies read by vLLM's own parsers: thoughts, text and calls, whole and in pieces; which parser it is."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.backends.contract import begun, of
from tests.backends.tools_contract import asked, calls, named

from shoal.backends.vllm.replies import Parsers, Reader
from shoal.errors import BadRequest
from shoal.runtime.types import Completion, Request

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make engines` runs these where it is", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of vLLM's imports, which its own process makes elsewhere
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Lyon"}}</tool_call>'


@pytest.fixture(scope="module")
def config(taught: Path) -> Any:
    from vllm.config import ModelConfig

    return ModelConfig(model=str(taught), dtype="float32")


@pytest.fixture
def tokenizer(taught: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(taught)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def whole(reader: Reader | None, text: str, tokenizer: Any) -> Completion:
    assert reader is not None
    return reader.whole(Completion(text), tokenizer(text).input_ids)


def streamed(reader: Reader | None, text: str, tokenizer: Any) -> tuple[str, str, Completion]:
    """Text and thoughts as they are shown, token by token, and the whole."""
    assert reader is not None
    ids = tokenizer(text).input_ids
    pieces = [reader.piece(tokenizer.decode([id]), [id]) for id in ids]
    rest, last = reader.after(reader.whole(Completion(text), ids))
    pieces.append(rest)
    return "".join(piece.text for piece in pieces), "".join(piece.reasoning for piece in pieces), last


def test_thoughts_are_told_from_the_text(tokenizer: Any, config: Any) -> None:
    parsers = Parsers(None, "deepseek_r1", tokenizer, config)
    text = "<think>the sea</think>It is rain."
    read = whole(parsers.reader(of("x"), [1]), text, tokenizer)
    assert (read.text, read.reasoning, read.finish_reason) == ("It is rain.", "the sea", "stop")
    shown, thoughts, last = streamed(parsers.reader(of("x"), [1]), text, tokenizer)
    assert (shown, thoughts) == ("It is rain.", "the sea") == (last.text, last.reasoning)
    # Where nothing is thought, or the reply was begun by the caller, nothing is read.
    for request in (Request(prompt="x"), begun(of("x"), "It")):
        assert parsers.reader(request, [1]) is None
    assert Parsers(None, None, tokenizer, config).reader(of("x"), [1]) is None


def test_calls_come_after_thoughts(tokenizer: Any, config: Any) -> None:
    parsers = Parsers("hermes", "deepseek_r1", tokenizer, config)
    text = f"<think>the sea</think>I look. {CALL}"
    read = whole(parsers.reader(asked("x"), [1]), text, tokenizer)
    assert (read.text, read.reasoning, calls(read)) == ("I look. ", "the sea", [("weather", {"city": "Lyon"})])
    assert streamed(parsers.reader(asked("x"), [1]), text, tokenizer) == ("I look. ", "the sea", read)


def test_what_is_blank_before_a_call_is_no_text(tokenizer: Any, config: Any) -> None:
    parsers = Parsers(None, None, tokenizer, config)
    for text in (f"\n {CALL}", CALL):
        shown, _, last = streamed(parsers.reader(asked("x"), [1]), text, tokenizer)
        assert (shown, last.text, len(calls(last))) == ("", "", 1)


def test_a_constraint_leaves_room_for_calls(tokenizer: Any, config: Any) -> None:
    parsers = Parsers(None, None, tokenizer, config)
    reader = parsers.reader(asked("x", regex="[ab]+"), [1])
    assert reader is not None
    assert "[ab]+" in reader.constraint.structural_tag
    assert "weather" in reader.constraint.structural_tag
    assert not reader.skip_special_tokens
    with pytest.raises(BadRequest, match="knows none beside a constraint"):
        Parsers("pythonic", None, tokenizer, config).reader(asked("x", regex="[ab]+"), [1])


def test_a_forced_call_keeps_its_parameters(tokenizer: Any, config: Any) -> None:
    for choice in ("required", named("weather")):
        reader = Parsers(None, None, tokenizer, config).reader(asked("x", choice=choice), [1])
        assert reader is not None
        assert '"enum":["Lyon","Nice"]' in reader.constraint.structural_tag
    plain = Parsers("internlm", None, tokenizer, config).reader(asked("x", choice=named("weather")), [1])
    assert plain is not None
    read = whole(plain, '{"city": "Nice"}', tokenizer)
    assert (calls(read), read.finish_reason) == ([("weather", {"city": "Nice"})], "tool_calls")


def test_the_parser_is_told_from_the_template_or_refused(tokenizer: Any, config: Any) -> None:
    tokenizer.chat_template = "{{ tools }}"
    with pytest.raises(BadRequest, match=r"options = \{ tool_call_parser = \.\.\. \}"):
        Parsers(None, None, tokenizer, config).reader(asked("x"), [1])
    assert Parsers(None, None, tokenizer, config).reader(asked("x", choice="none"), [1]) is None
    assert Parsers("hermes", None, tokenizer, config).reader(asked("x"), [1]) is not None
    with pytest.raises(BadRequest, match=r"vLLM's parser of replies: .*llama3_json"):
        Parsers("llama3_json", None, tokenizer, config).reader(asked("x"), [1])
    with pytest.raises(BadRequest, match="no tool has the name"):
        Parsers("hermes", None, tokenizer, config).reader(asked("x", choice=named("nobody")), [1])


def test_history_may_hold_calls(tokenizer: Any, config: Any) -> None:
    called = whole(Parsers(None, None, tokenizer, config).reader(asked("x"), [1]), CALL, tokenizer)
    question = asked("x")
    turn = structs.replace(question.messages[0], role="assistant", content=None, tool_calls=called.tool_calls)
    said = structs.replace(question.messages[0], role="tool", tool_call_id=called.tool_calls[0].value()["id"])
    longer = structs.replace(question, messages=(*question.messages, turn, said))
    assert calls(whole(Parsers(None, None, tokenizer, config).reader(longer, [1]), CALL, tokenizer))
