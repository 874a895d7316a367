"""LMQL queries as templates: what they ask then, and what is refused with its line."""

from pathlib import Path
from typing import Any

import pytest
from tests.evolution.day_cares import breeder, folder
from tests.scripting import run, scripted

from shoal.errors import UsageError
from shoal.evolution.lmql.folder import Outcome, convert
from shoal.evolution.queries import Queries, read_queries
from shoal.prompting.composing.writing import Rendered
from shoal.runtime import registry
from shoal.runtime.types import Request


def converted(at: Path, **changes: str | None) -> tuple[Queries, dict[str, Outcome]]:
    outcomes = convert(folder(at / "old", breeder__lmql=breeder(**changes)), at / "new")
    return read_queries(at / "new"), {outcome.query: outcome for outcome in outcomes}


def asked(queries: Queries, name: str, *says: str, **inputs: Any) -> tuple[Rendered, list[Request]]:
    """A query written out on a model that says these in turn; choices are answered by the model as well."""
    left = list(says)
    model, backend = scripted(lambda request: request.params.choices[0] if request.params.choices else left.pop(0))
    with registry.using(model):
        written = run(queries.write(name, **inputs))
    return written, backend.requests


GENOME = {
    "task_prompts": ["Judge it.", "Think."],
    "system_prompt": "You judge.",
    "inducer": {"temperature": 0.0},
    "evaluator": {"temperature": 0.0},
}


def test_fitness_has_turns_working_and_a_constrained_decision(tmp_path: Path) -> None:
    queries, outcomes = converted(tmp_path)
    written, requests = asked(queries, "fitness", "It is {{ nice }}.", **GENOME, variant="CoT", row={"text": "Nice."})
    assert outcomes["fitness_test_template"].became == ("fitness",)
    assert [(turn.role, turn.text) for turn in requests[0].messages] == [
        ("system", "You judge."),
        ("user", "Review: Nice.\nJudge it."),
        ("assistant", "Think."),
    ]
    assert (requests[0].params.max_tokens, requests[0].params.temperature) == (59, 0.0)
    assert [request.params.choices for request in requests[1:]] == [(" Yes", " No")]
    assert requests[1].messages[-1].text == "Think. It is {{ nice }}.\nIn short:"
    assert (written["working"], written["answer"]) == ("It is {{ nice }}.", " Yes")


def test_without_cot_the_decision_comes_at_once(tmp_path: Path) -> None:
    queries, _ = converted(tmp_path)
    written, requests = asked(queries, "fitness", **GENOME, variant="noCoT", row={"text": "Nice."})
    assert [request.params.choices for request in requests] == [(" Yes", " No")]
    assert [turn.role for turn in requests[0].messages] == ["system", "user"]
    assert "working" not in written.outputs


def test_a_prompt_is_written_in_parts(tmp_path: Path) -> None:
    queries, outcomes = converted(tmp_path)
    assert outcomes["mutation_direct"].became == ("initial", "zero_order_direct", "first_order_direct")
    assert queries.whole
    written, requests = asked(
        queries,
        "initial",
        "a judge",
        "Judge.",
        "Step by step.",
        mutation_prompt="Change it:",
        thinking_style="Be bold.",
        description="Good or not?",
        redescriber={"temperature": 1.5},
    )
    assert requests[0].messages[0].text == "Change it:\nBe bold.\nOLD:\nGood or not?\nNEW:"
    assert [request.params.stop for request in requests] == [("\n",), ("\n",), ("\n", "]")]
    assert [request.params.max_tokens for request in requests] == [40, None, None]
    assert requests[2].messages[1].text == "Role: a judge\nTask: Judge.\nThinking:"
    assert [written[name] for name in ("system_prompt", "task_prompt", "reasoning_prompt")] == [
        "a judge", "Judge.", "Step by step.",
    ]  # fmt: skip
    _, requests = asked(
        queries, "first_order_direct", "a", "b", "c", mutation_prompt="M", task_prompt="old one", redescriber={}
    )
    assert requests[0].messages[0].text == "M\nOLD:\nold one\nNEW:"
    notes = " ".join(outcomes["mutation_direct"].notes)
    assert "LMQL would have it go on without" in notes


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("estimation_of_distribution", "Examples\n0: A\n1: B"),
        ("rank_and_index", "Number 2 is best, then 1\n0: A\n1: B"),
        ("lineage", "Oldest first\n0: A\n1: B"),
    ],
)
def test_one_query_for_lists_becomes_three(tmp_path: Path, name: str, begins: str) -> None:
    queries, _ = converted(tmp_path)
    _, requests = asked(queries, name, "a", "b", "c", mutation_prompt="M", task_prompts=["A", "B"], redescriber={})
    assert requests[0].messages[0].text.startswith(begins)


def test_expressions_of_strings_reach_the_model_as_they_never_did(tmp_path: Path) -> None:
    queries, outcomes = converted(tmp_path)
    workings = [{"question": "Q", "text": "because"}, {"question": "Q", "text": "therefore"}]
    inputs = {"workings": workings, "mutation_prompt": "M", "task_prompt": "Judge.", "redescriber": {}}
    _, requests = asked(queries, "lamarckian", "a", "b", "c", **inputs)
    assert "because\ntherefore\n\nThe instruction was: Judge." in requests[0].messages[0].text
    assert "which LMQL never showed the model" in " ".join(outcomes["mutation_lamarckian"].notes)


def test_a_new_mutation_prompt(tmp_path: Path) -> None:
    queries, _ = converted(tmp_path)
    written, requests = asked(
        queries, "zero_order_hypermutation", "Do.", thinking_style="Be bold.", description="D", redescriber={}
    )
    assert requests[0].messages[0].text == "Be bold.\nD\n"
    assert requests[0].params.max_tokens == 249
    assert written["mutation_prompt"] == "Do."


def test_what_is_missing_is_said_and_ours_stands_in(tmp_path: Path) -> None:
    queries, outcomes = converted(tmp_path)
    missing = outcomes["hypermutation_first_order_direct"]
    assert missing.refused == "the folder has none; ours takes its place"
    assert "Please summarize" in queries.prompts["first_order_hypermutation"].text


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ('argmax\n    import os\n    "[TASK_PROMPT]"', "line 2: 'import os' is no expression"),
        ('argmax\n    x = open("/etc/passwd").read()\n    "[TASK_PROMPT]"', "line 2: 'x = open"),
        ('argmax\n    open("/etc/passwd")\n    "[TASK_PROMPT]"', "line 2: 'open("),
        ('argmax\n    "{task_prompt.upper()} [TASK_PROMPT]"', "line 2: a function call is not converted"),
        ('argmax\n    "{task_prompt.__class__} [TASK_PROMPT]"', "line 2: an attribute is not converted"),
        ('argmax\n    "{secret} [TASK_PROMPT]"', "line 2: secret is none of the query's arguments"),
        ('argmax\n    "[TASK_PROMPT: Person]"', "line 2: [TASK_PROMPT: Person]: only [NAME] and [NAME: int]"),
        ('argmax\n    "[@dc.find TASK_PROMPT]"', "line 2: [@dc.find TASK_PROMPT]"),
        ('argmax\n    "[TASK_PROMPT]" where len(TASK_PROMPT) < 9', "line 2: the constraint 'len(TASK_PROMPT) < 9'"),
        ('argmax\n    "[TASK_PROMPT]" where A(TASK_PROMPT) or B', "line 2: the constraint"),
        ('argmax\n    "x"\n    "[TASK_PROMPT]" distribution TASK_PROMPT in ["a"]', "line 3: a distribution clause"),
        ('argmax\n    "[OTHER]"', "line 1: no [TASK_PROMPT] is written"),
        ('argmax\n    "no variable at all"', "line 1: no [VARIABLE] is written"),
        ('argmax\n    while True:\n        "[TASK_PROMPT]"', "line 2: the block 'while True:'"),
        ('argmax\n    for a, b in task_prompt:\n        "[TASK_PROMPT]"', "line 2: the loop 'a, b in task_prompt'"),
        ('argmax\n    "[TASK_PROMPT]', "line 2: a string"),
        ('argmax\n    if task_prompt:\n    "[TASK_PROMPT]"', "line 2: a block without a body"),
        ("", "no [VARIABLE] is written"),
    ],
)
def test_a_query_is_refused_with_line_and_construct(tmp_path: Path, query: str, reason: str) -> None:
    queries, outcomes = converted(tmp_path, mutation_direct=query)
    refused = outcomes["mutation_direct"]
    assert refused.refused is not None
    assert reason in refused.refused
    assert not refused.became
    assert "A list of 100 hints" in queries.prompts["zero_order_direct"].text  # ours
    assert reason[:40] in (tmp_path / "new" / "breeder.yaml").read_text()


def test_templates_within_a_query_stay_text(tmp_path: Path) -> None:
    query = 'argmax\n    "{{{{ 7 * 7 }}}} {{% set x = 1 %}} {mutation_prompt}: [TASK_PROMPT]"'
    queries, _ = converted(tmp_path, mutation_direct=query)
    written, _ = asked(queries, "first_order_direct", "b", mutation_prompt="M", task_prompt="t", redescriber={})
    assert written.text == "{{ 7 * 7 }} {% set x = 1 %} M: b"


def test_the_constraints_at_the_end_hold_for_all(tmp_path: Path) -> None:
    query = (
        'argmax\n    "[TASK_PROMPT] {TASK_PROMPT}"\nfrom\n    "m"\nwhere\n'
        + '    STOPS_BEFORE(TASK_PROMPT, ".") and len(TOKENS(TASK_PROMPT)) < 9'
    )
    queries, _ = converted(tmp_path, mutation_direct=query)
    written, requests = asked(queries, "first_order_direct", "b", mutation_prompt="M", task_prompt="t", redescriber={})
    assert (requests[0].params.stop, requests[0].params.max_tokens) == ((".",), 8)
    assert written.text == "b b"


def test_lists_and_tasks_are_taken_over_and_runs_are_not(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", breeder__lmql=breeder(), mutation_prompts__json={"1": "Change."})
    (old / "good" / "RUN_0").mkdir()
    convert(old, tmp_path / "new")
    names = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert names == {"breeder.yaml", "mutation_prompts.json", "good/task_description.json"}
    with pytest.raises(UsageError, match="is there already"):
        convert(old, tmp_path / "new")


@pytest.mark.parametrize(
    ("text", "reason"), [("{ a: ", "not Hjson"), ("[1]", "queries by name are needed"), (None, "cannot be read")]
)
def test_a_breeder_that_cannot_be_read(tmp_path: Path, text: str | None, reason: str) -> None:
    old = folder(tmp_path / "old", **({} if text is None else {"breeder__lmql": text}))
    with pytest.raises(UsageError, match=reason):
        convert(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
