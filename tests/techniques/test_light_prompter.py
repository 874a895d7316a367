"""Light Prompter's responders as compositions of models: its schedules, and the mistakes that must not come back."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from examples.fast_moa import fast_moa
from examples.fast_self_consistency import fast_self_consistency
from tests.scripting import answer_of, run, scripted

from shoal.errors import ServerError, UsageError
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Completion, Message, Request
from shoal.techniques.combining import pipeline
from shoal.techniques.critique import critique
from shoal.techniques.mixture_of_agents import mixture_of_agents
from shoal.techniques.opening import open_model
from shoal.techniques.self_consistency import self_consistency
from shoal.techniques.two_turn import two_turn


def part(request: Request) -> str:
    """What a model is asked to do in these programs."""
    if "Criticise the draft" in request.text:
        return "critique"
    if "Write the answer anew" in request.text:
        return "rewrite"
    return "merge" if "Several models have answered" in str(request.messages[0].content) else "answer"


# -- schedules


def test_fast_moa_is_nineteen_calls_in_five_waves() -> None:
    model, backend = scripted(lambda r: f"{part(r)} {r.sample}", waves=True)
    completion = run(fast_moa(model)(Request.of("Q?")))
    assert backend.batches == [9, 3, 3, 3, 1]
    asked = [part(r) for r in backend.requests]
    assert asked == ["answer"] * 9 + ["merge"] * 3 + ["critique"] * 3 + ["rewrite"] * 3 + ["merge"]
    assert len(set(backend.requests)) == 19
    assert completion.usage.calls == 19
    assert completion.text == "merge ()"


def test_fast_moa_merges_what_its_critiques_rewrote() -> None:
    model, backend = scripted(lambda r: f"{part(r)} {r.sample}", waves=True)
    run(fast_moa(model)(Request.of("Q?")))
    merged = [str(r.messages[0].content) for r in backend.requests if part(r) == "merge"]
    for i, seen in enumerate(merged[:3]):
        assert [seen.index(f"answer ({i}, {j})") > 0 for j in range(3)] == [True] * 3
    assert [f"[Answer {i + 1}]\nrewrite ({i}, 0)" in merged[3] for i in range(3)] == [True] * 3


def test_fast_self_consistency_is_five_calls_in_one_wave_and_picks_the_medoid() -> None:
    says = ("The answer is 100.", "I do not know.", "The answer is 11.", "The answer is 10.", "The answer is 12.")
    model, backend = scripted(lambda r: says[r.sample[-1]], waves=True)
    completion = run(fast_self_consistency(model)(Request.of("Q?")))
    assert backend.batches == [5]
    assert (completion.answer, completion.usage.calls) == ("11", 5)


def test_parts_of_different_lengths_wait_for_nothing_but_their_own_inputs() -> None:
    model, backend = scripted(lambda r: f"{part(r)} {r.sample}", waves=True)
    children = [model, apply(two_turn, model), apply(critique, model)]
    greedy = Request.of("Q?", temperature=0.0)  # as the critic is: calls of other parameters are requests of their own
    completion = run(apply(mixture_of_agents, model, layers=2, proposers=children)(greedy))
    assert backend.batches == [3, 2, 1, 1]
    assert completion.usage.calls == 7


# -- defects


def test_the_draft_reaches_the_rewriter() -> None:
    _, backend = answer_of(critique, lambda r: f"my {part(r)}", "Q?")
    rewriting = backend.requests[-1].text
    assert "my answer" in rewriting
    assert "my critique" in rewriting
    assert "{" not in rewriting


def test_a_reviser_of_several_turns_works() -> None:
    model, _ = scripted(lambda r: "42" if r.text.startswith("Now give") else f"The {part(r)}: 42.")
    completion = run(apply(critique, model, reviser=apply(two_turn, model))("Q?"))
    assert (completion.text, completion.answer, completion.usage.calls) == ("The rewrite: 42.", "42", 4)


def test_braces_in_a_box_are_balanced() -> None:
    completion, _ = answer_of(two_turn, lambda r: r"So \boxed{\frac{1}{2}}.")
    assert completion.answer == r"\frac{1}{2}"


def test_a_long_conversation_keeps_its_system_message_and_its_order() -> None:
    turns = [Message("assistant" if i % 2 else "user", f"turn {i}") for i in range(15)]
    request = Request((Message("system", "S"), *turns))
    _, backend = answer_of(two_turn, lambda r: "x", request)
    assert backend.requests[1].messages[:16] == request.messages
    assert [m.role for m in backend.requests[1].messages[16:]] == ["assistant", "user"]


def test_one_model_listed_three_times_is_three_draws() -> None:
    model, backend = scripted(lambda r: f"{part(r)} {r.sample}", waves=True)
    run(apply(mixture_of_agents, model, layers=2, proposers=[model] * 3)("Q?"))
    assert [r.sample for r in backend.requests] == [(0,), (1,), (2,), ()]


def test_one_model_in_two_branches_keeps_them_apart() -> None:
    """Both branches take their own second turn, about their own first one."""
    model, backend = scripted(lambda r: f"{r.sample} turn {len(r.messages)}", waves=True)
    shared = apply(two_turn, model)
    run(apply(mixture_of_agents, model, layers=2, proposers=[shared, apply(critique, shared)])("Q?"))
    second = [r for r in backend.requests if r.text.startswith("Now give") and len(r.messages) == 3]
    assert all(f"{r.sample} turn 1" == r.messages[1].content for r in second if "turn 1" in str(r.messages[1].content))
    assert {r.sample for r in second} >= {(0,), (1,)}


def test_the_order_of_answers_is_fixed() -> None:
    def seen(seed: int) -> str:
        chance = random.Random(seed)

        async def script(request: Request) -> str:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            return str(request.messages[0].content) if part(request) == "merge" else f"draw {request.sample}"

        model, _ = scripted(script)
        return run(apply(mixture_of_agents, model, layers=2, width=5)("Q?")).text

    texts = {seen(seed) for seed in range(6)}
    assert len(texts) == 1
    (text,) = texts
    assert [f"[Answer {i + 1}]\ndraw ({i},)" in text for i in range(5)] == [True] * 5


def test_equal_votes_go_to_the_earliest_answer() -> None:
    completion, _ = answer_of(self_consistency, lambda r: f"Draw {r.sample[0]}. The answer is {r.sample[0] % 2}.", n=4)
    assert completion.text == "Draw 0. The answer is 0."


@pytest.mark.parametrize("options", [{"proposers": []}, {"proposers": (), "layers": 4}])
def test_no_children_is_a_clear_error(options: dict[str, Sequence[Model]]) -> None:
    with pytest.raises(UsageError, match="proposers is empty; name at least one model"):
        answer_of(mixture_of_agents, lambda r: "x", **options)
    with pytest.raises(UsageError, match="at least one"):
        answer_of(pipeline, lambda r: "x", stages=[])
    with pytest.raises(UsageError, match="at least one"):
        answer_of(self_consistency, lambda r: "x", n=0)


def test_what_fills_a_gap_is_never_searched_for_gaps() -> None:
    question = "What do {{responses}}, {{response}}, {draft}, {critique} and {answers} stand for?"
    for technique in (critique, mixture_of_agents, two_turn):
        _, backend = answer_of(technique, lambda r: "a {critique} {{query}} b", question)
        for request in backend.requests:
            everything = " ".join(message.text for message in request.messages)
            assert question in everything
        assert "a {critique} {{query}} b" in " ".join(m.text for m in backend.requests[-1].messages)


def test_the_merged_answer_is_the_text_and_its_short_form_the_answer() -> None:
    model, _ = scripted(lambda r: "42" if r.text.startswith("Now give") else "All say 42.")
    completion = run(apply(mixture_of_agents, model, layers=2, width=2, aggregator=apply(two_turn, model))("Q?"))
    assert (completion.text, completion.answer) == ("All say 42.", "42")


def test_one_prompt_cannot_corrupt_another() -> None:
    """A hundred questions at once through one model of many parts: each gets its own answer."""

    async def script(request: Request) -> str:
        for _ in range(hash(request) % 7):
            await asyncio.sleep(0)
        words = " ".join(message.text for message in request.messages).split()
        return " ".join(sorted({word for word in words if word.startswith("number-")}))

    async def all_at_once() -> list[Completion]:
        model = fast_moa(scripted(script)[0])
        return await gather(*(model(Request.of(f"Say number-{i}!")) for i in range(100)))

    for i, completion in enumerate(run(all_at_once())):
        assert completion.text == f"number-{i}!"
        assert completion.usage.calls == 19


def test_after_a_failure_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "from pathlib import Path\n"
        "from shoal.errors import ServerError\n"
        "def f(request):\n"
        "    if 'Criticise' in request.text and not Path('mended').exists():\n"
        "        raise ServerError('down', retryable=False)\n"
        "    return 'x'\n"
    )

    def once() -> Completion:
        model = open_model("critique@mixture_of_agents(layers=2)@scripted/s.py:f")
        return run(model(Request.of("Q?")))

    with pytest.raises(ServerError, match="down"):
        once()
    (tmp_path / "mended").touch()
    completion = once()
    assert completion.usage.cached_calls >= 4
    assert completion.usage.calls + completion.usage.cached_calls == 12


def test_each_part_can_have_a_model_of_its_own_and_all_is_counted() -> None:
    models = [scripted(lambda r: "two words", name=name) for name in "abcd"]
    (a, _), (b, _), (c, _), (d, _) = models
    whole = apply(mixture_of_agents, d, layers=2, proposers=[a, apply(critique, b, critic=c, reviser=b)])
    completion = run(whole("Q?"))
    asked = [len(backend.requests) for _, backend in models]
    assert asked == [2, 2, 1, 1]
    assert completion.usage.completion_tokens == 2 * sum(asked)
