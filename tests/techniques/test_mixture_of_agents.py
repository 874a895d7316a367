"""Layers x proposers, every answer of a layer before the next, an aggregator at the end."""

import re
from typing import Any

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import UsageError
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Message, Request
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


def critic(request: Request) -> str:
    """Drafts by draw, a critique that names what it saw, and a synthesis that quotes what it was given."""
    if "Criticise each answer" in request.text:
        return f"critique {request.sample} of " + ", ".join(re.findall(r"\[Answer \d\]\n(\S+)", request.text))
    system = str(request.messages[0].content) if request.messages[0].role == "system" else ""
    return f"{'b' if system else 'a'}{request.sample[-1]}" if request.sample else system


def test_critiques_come_before_each_synthesis() -> None:
    completion, backend = answer_of(mixture_of_agents, critic, layers=3, width=2, critiques=True)
    assert backend.batches == [2, 1, 2, 1, 1]
    assert completion.usage.calls == 7
    assert "[Answer 1]\nb0\n\n[Answer 2]\nb1\n\n[Critique]\ncritique (1,) of b0, b1" in completion.text
    second = next(r for r in backend.requests if r.messages[0].role == "system")
    assert "[Critique]\ncritique (0,) of a0, a1" in str(second.messages[0].content)


def test_the_critic_sees_the_conversation_and_not_the_users_limits() -> None:
    turns = (Message("system", "Be kind."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    request = Request(turns).with_params(max_tokens=9, stop=("x",)).draw(7)
    _, backend = answer_of(mixture_of_agents, critic, request, layers=2, width=2, critiques=True)
    asked = backend.requests[2]
    assert "system: Be kind.\n\nuser: a\n\nassistant: b\n\nuser: c" in asked.text
    assert (asked.params.max_tokens, asked.params.stop, asked.sample) == (None, (), (7, 0))
    assert backend.requests[-1].params == request.params


def test_the_aggregator_criticises() -> None:
    model, proposing = scripted(critic)
    last, aggregating = scripted(critic)
    run(mixture_of_agents(model, Request.of("Q?"), layers=2, aggregator=last, critiques=True))
    assert (len(proposing.requests), len(aggregating.requests)) == (3, 2)


@pytest.mark.parametrize("critiques", [True, False])
def test_empty_drafts_are_left_out(critiques: bool) -> None:
    def script(request: Request) -> str:
        return " " if request.sample in ((0,), (2,)) and request.text == "Q?" else critic(request)

    completion, backend = answer_of(mixture_of_agents, script, layers=2, width=3, critiques=critiques)
    assert len(backend.requests) == 4 + critiques
    assert completion.text.count("a1") == 1 + critiques
    assert "[Answer 2]" not in completion.text


def test_where_all_drafts_are_empty_the_question_is_asked_anew() -> None:
    def script(request: Request) -> str:
        return "" if len(request.sample) == 1 and request.sample[0] < 3 else "whole"

    completion, backend = answer_of(mixture_of_agents, script, layers=2, width=3, critiques=True)
    assert completion.text == "whole"
    assert backend.batches == [3, 1]
    assert backend.requests[-1].question() == Request.of("Q?")
    completion, backend = answer_of(mixture_of_agents, script, layers=3, width=3)
    assert backend.batches == [3, 3, 1]  # the second layer is not the first one's draws again
    assert "[Answer 3]\nwhole" in str(backend.requests[-1].messages[0].content)


def test_an_empty_critique_is_left_out() -> None:
    def script(request: Request) -> str:
        return "" if "Criticise each answer" in request.text else critic(request)

    completion, _ = answer_of(mixture_of_agents, script, layers=2, critiques=True)
    assert "[Answer 3]\na2" in completion.text
    assert "[Critique]" not in completion.text


def test_a_synthesis_that_was_cut_off_says_so() -> None:
    def script(request: Request) -> Completion:
        return Completion("draft") if request.sample else Completion("half an ans", "length")

    completion, _ = answer_of(mixture_of_agents, script, layers=2)
    assert (completion.text, completion.finish_reason) == ("half an ans", "length")


@pytest.mark.parametrize("options", [{"layers": 0}, {"width": 0}, {"proposers": []}])
def test_bad_options_are_refused_before_any_call(options: dict[str, Any]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=next(iter(options))):
        run(mixture_of_agents(model, Request.of("Q?"), **options))
    assert backend.requests == []


def test_layers_that_are_shown_the_same_drafts_have_draws_of_their_own() -> None:
    _, backend = answer_of(mixture_of_agents, lambda r: "Paris", layers=4, width=3)
    assert len(set(backend.requests)) == len(backend.requests) == 10
