"""Layers x proposers, every answer of a layer before the next, an aggregator at the end."""

from tests.scripting import answer_of, run, scripted

from shoal.runtime.model import apply
from shoal.runtime.types import Message, Request
from shoal.techniques.mixture_of_agents import mixture_of_agents


def depth(request: Request) -> str:
    """How many layers an answer stands on, told by the marks in what the proposer saw."""
    system = request.messages[0].content if request.messages[0].role == "system" else ""
    assert isinstance(system, str)
    seen = 2 if "layer 2" in system else 1 if "layer 1" in system else 0
    return f"layer {seen + 1} draw {request.sample}"


def test_calls_and_critical_path() -> None:
    completion, backend = answer_of(mixture_of_agents, depth, layers=3, width=3)
    assert backend.batches == [3, 3, 1]
    assert completion.text == "layer 3 draw ()"
    assert completion.usage.calls == 7
    assert answer_of(mixture_of_agents, depth, layers=4, width=6)[1].batches == [6, 6, 6, 1]


def test_every_answer_of_the_layer_before_is_seen() -> None:
    _, backend = answer_of(mixture_of_agents, depth, layers=2, width=4)
    seen = str(backend.requests[-1].messages[0].content)
    assert [f"[Answer {i + 1}]\nlayer 1 draw ({i},)" in seen for i in range(4)] == [True] * 4


def test_the_conversation_stays_and_the_users_system_message_too() -> None:
    request = Request(
        (Message("system", "Be kind."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    )
    _, backend = answer_of(mixture_of_agents, lambda r: "draft", request, layers=2, width=2)
    final = backend.requests[-1]
    assert str(final.messages[0].content).startswith("Be kind.\n\n")
    assert [m.content for m in final.messages[1:]] == ["a", "b", "c"]
    assert final.params == request.params


def test_several_models_take_turns() -> None:
    a, asked_a = scripted(lambda r: "from a")
    b, asked_b = scripted(lambda r: "from b")
    last, asked_last = scripted(lambda r: str(r.messages[0].content))
    mixture = apply(mixture_of_agents, a, layers=2, width=4, proposers=[a, b], aggregator=last)
    text = run(mixture("Q")).text
    assert text.index("from a") < text.index("from b")
    assert (len(asked_a.requests), len(asked_b.requests), len(asked_last.requests)) == (2, 2, 1)
    wide = apply(mixture_of_agents, a, layers=2, width=1, proposers=[a, b], aggregator=last)
    assert run(wide("Q2")).usage.calls == 3


def test_text_of_the_question_is_not_mistaken_for_a_gap() -> None:
    _, backend = answer_of(mixture_of_agents, lambda r: "uses {answers} and {x}", "What is {answers}?", layers=2)
    assert "uses {answers} and {x}" in str(backend.requests[-1].messages[0].content)
