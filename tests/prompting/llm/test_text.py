"""Built-ins that give text: what is asked of which kind of model."""

import pytest
from tests.scripting import in_turn, scripted

import shoal
from shoal import llm
from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import InvalidOutput, Unsupported, UsageError
from shoal.runtime.backend import Capabilities
from shoal.runtime.types import Message, Request


def able(script: object, **capabilities: bool) -> tuple[BaseModel, ScriptedBackend]:
    """A scripted model that can do what is named and no more."""
    model, backend = scripted(script)  # type: ignore[arg-type]
    backend.capabilities = Capabilities(**capabilities)  # type: ignore[arg-type]
    return model, backend


@pytest.mark.parametrize(("bare", "chat"), [(None, True), (False, True), (True, True), (None, False)])
def test_a_text_is_the_users_turn_or_is_continued(bare: bool | None, chat: bool) -> None:
    model, backend = able(lambda request: "said", text=True, chat=chat)
    assert shoal.run(llm.generate_text("q", stop="x", max_tokens=3, bare=bare), model=model) == "said"
    (request,) = backend.requests
    assert (request.prompt, request.messages) == (("q", ()) if bare or not chat else (None, (Message("user", "q"),)))
    assert (request.params.stop, request.params.max_tokens) == (("x",), 3)


def test_texts_are_draws_and_fuse() -> None:
    model, backend = scripted(in_turn("a", "b", "c"), waves=True)
    assert shoal.run(llm.generate_texts("q", 3), model=model) == ["a", "b", "c"]
    assert backend.batches == [3]
    assert shoal.run(shoal.repeat(llm.generate_text("q"), 3), model=model) == ["a", "b", "c"]
    with pytest.raises(UsageError, match="at least one draw"):
        shoal.run(llm.generate_texts("q", 0), model=model)


def test_a_chat_has_every_role() -> None:
    model, backend = scripted(lambda request: "said")
    conversation = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        Message("user", "So?"),
    ]
    assert shoal.run(llm.chat(conversation, system="Be brief."), model=model) == "said"
    assert [message.role for message in backend.requests[0].messages] == ["system", "user", "assistant", "tool", "user"]
    assert backend.requests[0].messages[2].tool_calls[0].value() == {"id": "1"}
    with pytest.raises(UsageError, match=r"messages\[0\]: role 'robot'"):
        shoal.run(llm.chat([{"role": "robot", "content": "x"}]), model=model)
    with pytest.raises(UsageError, match="a text or a list of messages, not int"):
        shoal.run(llm.chat(3), model=model)  # type: ignore[arg-type]


def test_a_constraint_the_backend_cannot_do_is_refused_before_the_call() -> None:
    model, backend = able(lambda request: "")
    with pytest.raises(Unsupported, match="a regex"):
        shoal.run(llm.generate_text("q", regex="a+"), model=model)
    assert backend.requests == []


def test_an_answer_is_made_to_begin_with_a_prefix() -> None:
    model, backend = able(lambda request: " Paris.", prefill=True)
    assert shoal.run(llm.instruct("Capital?", assistant_prefix="It is", system="s"), model=model) == " Paris."
    assert [m.role for m in backend.requests[0].messages] == ["system", "user", "assistant"]
    assert shoal.run(llm.instruct("Capital?"), model=model) == " Paris."


def test_where_it_cannot_be_made_to_it_is_asked_and_checked() -> None:
    said = iter(["Paris.", " It is Paris."])
    model, backend = able(lambda request: next(said))
    assert shoal.run(llm.instruct("Capital?", assistant_prefix="It is"), model=model) == " Paris."
    assert len(backend.requests) == 2
    model, backend = able(lambda request: "No.")
    with pytest.raises(InvalidOutput, match=r"does not begin with 'It is': 'No\.'"):
        shoal.run(llm.instruct("Capital?", assistant_prefix="It is"), model=model)
    assert len(backend.requests) == 3


def test_completions_carry_what_the_server_said() -> None:
    model, _ = scripted(lambda request: shoal.Completion("x", "length"))
    (drawn,) = shoal.run(llm.completions("q", 1), model=model)
    assert (drawn.finish_reason, drawn.usage.calls) == ("length", 1)
    one = shoal.run(llm.completion([Message("user", "q")]), model=model)
    assert one.text == "x"


def test_what_the_model_cannot_measure_is_refused() -> None:
    async def bare(request: Request) -> shoal.Completion:
        return shoal.Completion("")

    for program in (llm.embed("a"), llm.count_tokens("a")):
        with pytest.raises(Unsupported):
            shoal.run(program, model=bare)
