"""How a unit is asked a question: its prompts one after another, its workings before, in each variant."""

from random import Random
from typing import Any

import pytest
from msgspec import structs
from tests.evolution.breeding import Decoders, breeding, task
from tests.evolution.mutating import QUERIES, WORKINGS, unit
from tests.scripting import run, scripted

from shoal.backends.scripted import ScriptedBackend
from shoal.evolution.fitness import evaluate
from shoal.evolution.queries import Queries
from shoal.evolution.unit import Scored, Unit, Working
from shoal.runtime import registry
from shoal.runtime.types import Request

ROWS = [{"question": "Say 7.", "answer": "7"}]


def evaluated(
    tried: Unit, script: Any = lambda _: "7", rows: Any = ROWS, queries: Queries = QUERIES, **settings: Any
) -> tuple[Scored, ScriptedBackend]:
    model, backend = scripted(script, waves=True)
    decoders = Decoders(inducer={"max_tokens": 30}, evaluator={"max_tokens": 5})
    given = structs.replace(breeding(task(rows=rows, decoders=decoders), batch=None, **settings), queries=queries)
    with registry.using(model):
        return run(evaluate(tried, given, (0, 0), Random(0), None)), backend


def turns(request: Request) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in request.messages]


def limits(backend: ScriptedBackend) -> list[int | None]:
    return [request.params.max_tokens for request in backend.requests]


def in_turn(*texts: str) -> Any:
    left = list(texts)
    return lambda _: left.pop(0)


def test_one_prompt_is_one_call() -> None:
    scored, backend = evaluated(unit("Say it."))
    assert [turns(request) for request in backend.requests] == [[("user", "Say 7.\nSay it.")]]
    assert limits(backend) == [30]
    assert scored.fitness == 1.0
    assert scored.workings == (Working("Say 7.", "7"),)


def test_prompts_are_applied_one_after_another() -> None:
    scored, backend = evaluated(unit("Think.", "More.", "Answer."), in_turn("It is", "surely", "7"))
    assert turns(backend.requests[-1]) == [
        ("user", "Say 7.\nThink."),
        ("assistant", "It is"),
        ("user", "More."),
        ("assistant", "surely"),
        ("user", "Answer."),
    ]
    assert limits(backend) == [30, 30, 5]  # the Evaluator writes the answer only
    assert backend.batches == [1, 1, 1]
    assert scored.workings == (Working("Say 7.", "It is\nsurely\n7"),)  # all that was written, and no prompt


def test_the_system_prompt_comes_first() -> None:
    _, backend = evaluated(unit("Say it.", system_prompt="Be brief."))
    assert turns(backend.requests[0]) == [("system", "Be brief."), ("user", "Say 7.\nSay it.")]


def test_workings_are_shown_before_the_question_and_do_not_pile_up() -> None:
    scored, backend = evaluated(unit("Say it.", contexts=WORKINGS[:2]))
    assert turns(backend.requests[0]) == [
        (
            "user",
            "What is 1 + 1?\nIt is 1 doubled.\n2\n\nWhat is 2 + 2?\nIt is 2 doubled.\n4\n\nSay 7.\nSay it.",
        )
    ]
    assert scored.workings == (Working("Say 7.", "7"),)


def test_a_question_is_not_asked_with_its_own_answer_before_it() -> None:
    shown = (Working("Say 7.", "7"), WORKINGS[0])
    _, backend = evaluated(unit("Say it.", contexts=shown))
    assert turns(backend.requests[0]) == [("user", "What is 1 + 1?\nIt is 1 doubled.\n2\n\nSay 7.\nSay it.")]


@pytest.mark.parametrize("prompts", [("Say it.",), ("Think.", "Answer.")])
def test_with_thinking_the_working_is_asked_for_first(prompts: tuple[str, ...]) -> None:
    scored, backend = evaluated(unit(*prompts), in_turn("First", "7"), variants=("CoT",))
    last = prompts[1] if len(prompts) > 1 else "Therefore, the final answer is:"
    assert turns(backend.requests[-1]) == [
        ("user", f"Say 7.\n{prompts[0]}\nLet's think step by step."),
        ("assistant", "First"),
        ("user", last),
    ]
    assert limits(backend) == [30, 5]
    assert scored.fitness == 1.0


def test_without_thinking_the_answer_is_asked_for_at_once() -> None:
    _, backend = evaluated(unit("Think.", "Answer."), variants=("noCoT",))
    assert [turns(request) for request in backend.requests] == [[("user", "Say 7.\nThink.\nAnswer.")]]
    assert limits(backend) == [5]


def test_the_better_variant_counts() -> None:
    def thinks(request: Request) -> str:
        return "7" if any("step by step" in message.text for message in request.messages) else "wrong"

    scored, _ = evaluated(unit("Say it."), thinks, variants=("CoT", "noCoT"))
    assert scored.variants == {"CoT": 1.0, "noCoT": 0.0}
    assert scored.fitness == 1.0
    assert [working.text for working in scored.workings] == ["7\n7"]


def test_a_query_without_turns_has_its_working_in_its_outputs() -> None:
    text = (
        "{{ question }} {{ task_prompts[0] }}{{ generate_text(name='working') }} So {{ generate_text(name='answer') }}"
    )
    scored, backend = evaluated(unit("Think."), in_turn(" It is 7.", "7"), queries=Queries({"fitness": text}))
    assert backend.requests[-1].text == "Say 7. Think. It is 7. So "
    assert scored.workings == (Working("Say 7.", "It is 7.\n7"),)
