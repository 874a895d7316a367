"""Scores are 1.0 or 0.0; the short answer is used where there is one, else what the output states."""

import inspect
import json
from pathlib import Path

import pytest
from tests.scripting import run, scripted

import shoal
from shoal.errors import UsageError
from shoal.evaluation.scorers import SCORERS, open_scorer
from shoal.runtime.types import Completion

GSM8K = Path(shoal.__file__).parent / "evaluation" / "datasets" / "gsm8k.jsonl"

SCORED = [
    # scorer, output, short answer, target, score
    ("exact", "The capital of France is Paris.", None, "Paris", 1.0),
    ("exact", "It is Lyon.", "Paris", "paris", 1.0),
    ("exact", "The answer is the Eiffel Tower.", None, "Eiffel Tower", 1.0),
    ("exact", "The answer is Lyon.", None, "Paris", 0.0),
    ("exact", "The answer is $1,234.50.", None, 1234.5, 1.0),
    ("exact", "So \\boxed{42}.", None, "We add.\n#### 42", 1.0),
    ("exact", "<think>Paris", None, "Paris", 0.0),
    ("exact", "Answer: yes", None, True, 1.0),
    ("exact", "Answer: False", None, False, 1.0),
    ("exact", "Answer: yes", None, False, 0.0),
    ("exact", "Answer: 1", None, True, 0.0),
    ("exact", "The answer is Paris.", None, None, 0.0),
    ("exact", "", None, "", 0.0),
    ("number", "so she has 60", None, 60, 1.0),
    ("number", "The answer is 60.0 dollars.", None, "60", 1.0),
    ("number", "so she has 60", "50", 60, 0.0),
    ("number", "long text", "$1,000", "3 * 4 = 12\n#### 1,000", 1.0),
    ("number", "The answer is 1/2.", None, 0.5, 1.0),
    ("number", "The answer is -5.", None, 5, 0.0),
    ("number", "no idea", None, 5, 0.0),
    ("number", "no idea", None, "no idea", 0.0),
    ("number", "5", None, None, 0.0),
    ("choice", "I pick (B).", None, "B", 1.0),
    ("choice", "The answer is B) Paris", None, "(b)", 1.0),
    ("choice", "The answer is C.", None, 2, 1.0),
    ("choice", "The answer is C.", None, "A", 0.0),
    ("choice", "A dog.", None, "A", 0.0),
    ("choice", "whatever", "d", "D", 1.0),
    ("choice", "The answer is C.", None, "2", 1.0),
    ("choice", "The answer is C.", None, True, 0.0),
    ("number", "The answer is negative 5.", None, -5, 1.0),
    ("number", "The answer is negative 5.", None, 5, 0.0),
    ("number", "The answer is eighteen.", None, 18, 1.0),
    ("boolean", "Yes, it is.", None, True, 1.0),
    ("boolean", "So the statement is not true.", None, "no", 1.0),
    ("boolean", "whatever", "False", 0, 1.0),
    ("boolean", "The answer is no.", None, "Yes", 0.0),
    ("boolean", "I cannot say.", None, False, 0.0),
    ("boolean", "Yes.", None, None, 0.0),
    ("f_beta", "", "yes", True, 1.0),
    ("f_beta", "", "no", True, 0.0),
    ("f_beta", "", None, False, 1.0),
]


@pytest.mark.parametrize(("scorer", "output", "answer", "target", "score"), SCORED)
def test_scorers(scorer: str, output: str, answer: str | None, target: object, score: float) -> None:
    assert run(open_scorer(scorer).rate(output, answer, target, {})) == score


async def rated(spec: str, output: str, target: object, **row: object) -> float | None:
    """The score of a whole output, as a batch gets it."""
    return (await open_scorer(spec).score(Completion(output), target, row))[1]


@pytest.mark.parametrize("scorer", ["number", "exact", "maths"])
def test_gold_answers_of_shipped_data_are_right_and_those_of_other_rows_are_not(scorer: str) -> None:
    golds = [json.loads(line)["answer"] for line in GSM8K.read_text("utf-8").splitlines()]
    ends = [gold.rsplit("#### ", 1)[1] for gold in golds]

    async def score() -> None:
        for gold, end, other in zip(golds, ends, ends[1:] + ends[:1], strict=True):
            for said in (gold, f"So she has {end} of them.\nThe answer is {end}.", f"\\boxed{{{end}}}"):
                assert await rated(scorer, said, gold) == 1.0, (said, gold)
            assert await rated(scorer, f"The answer is {other}.", gold) == float(other == end)

    assert len(golds) == 100
    run(score())


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [(" Yes", True, 1.0), ("Yes", True, 0.0), (" Yes.", False, 1.0), (" Yes", False, 0.0)],
)
def test_f_beta_may_take_one_text_to_the_letter_as_yes(output: str, target: bool, score: float) -> None:
    scorer = open_scorer('f_beta(beta=0.5, yes=" Yes")')
    assert scorer.metric.name == "F0.5"
    assert run(scorer.score(Completion(output, answer="yes"), target, {})) == (
        "yes" if output == " Yes" else "no",
        score,
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("numbr", "unknown scorer 'numbr'; did you mean number?"),
        ("regex(patern=x)", "regex has no option 'patern'; did you mean pattern?"),
        ("regex(pattern)", "'pattern' should be option=value; options: pattern, flags, seconds"),
        ("exact(a=1)", "exact has no option 'a'"),
        ("exact(1)", "options: none"),
        ("f_beta(beta=one)", "'one' is not a number"),
        ("f_beta(beta=0)", "beta must be above 0"),
        ("f_beta(beta=1, beta=2)", "given twice"),
        ("regex(pattern=[)", "unknown scorer|no regular expression"),
        ("regex(pattern=*)", "'\\*' is no regular expression: nothing to repeat"),
        ('regex(pattern="\\bx")', "control character; in quotes write"),
        ("regex(flags=iq)", "no flag 'q'"),
        ("regex(seconds=0)", "above 0"),
        ("json(tolerance=1)", "up to, but not, 1"),
        ("maths(seconds=0)", "above 0"),
        ("code(seconds=-1)", "above 0"),
        ("judge", "the scorer judge needs model="),
        ("judge(model=locl)", "unknown model 'locl'; did you mean local?"),
        ("judge(model=local, scale=0)", "from 1 to 100"),
        ("no.py:f", "scorer no.py:f: no file no.py"),
    ],
)
def test_a_mistake_in_a_spec_is_told(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_scorer(spec)


def test_every_scorer_says_what_it_does_and_has_plain_options() -> None:
    for name, function in SCORERS.items():
        assert (inspect.getdoc(function) or "").split("\n", 1)[0].endswith("."), name
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values()), name
        if name != "judge":
            assert open_scorer(name).name == name


@pytest.mark.parametrize(
    ("scorer", "target", "said"),
    [
        ("boolean", "maybe", "'maybe' is neither yes nor no"),
        ("f_beta", "2", "neither yes nor no"),
        ("regex", "(", "no regular expression"),
        ("json", "{", "is not JSON"),
        ("code", "x = 1", "no tests in"),
    ],
)
def test_a_target_that_nothing_can_be_compared_with_is_told_with_its_row(scorer: str, target: str, said: str) -> None:
    rows = [{"gold": None}, {"gold": target}]
    with pytest.raises(UsageError, match=f"row 1, column 'gold': .*{said}"):
        open_scorer(scorer).check_rows(rows, "gold")
    open_scorer(scorer).check_rows(rows[:1], "gold")
    with pytest.raises(UsageError, match="needs the column"):
        open_scorer(scorer).check_rows(rows, None)


def test_map_takes_a_scorer_and_a_column() -> None:
    model, _ = scripted(lambda request: f"The answer is {request.text[-1]}.")
    rows = [{"prompt": "2 + 3 = 5", "gold": 5}, {"prompt": "2 + 2 = 5", "gold": 4}]
    records = shoal.map(model, rows, score=shoal.open_scorer("number"), target="gold", run_dir="run")
    assert [(record.answer, record.score) for record in records] == [("5", 1.0), ("5", 0.0)]
    with pytest.raises(shoal.ShoalError, match="now score="):
        shoal.map(model, rows, score=shoal.open_scorer("exact"), target="gold", run_dir="run")
    with pytest.raises(UsageError, match=r"row 0, column .gold.: .*neither yes nor no"):
        shoal.map(model, rows, score=shoal.open_scorer("boolean"), target="gold")
    with pytest.raises(UsageError, match="needs the column"):
        shoal.map(model, rows, score=shoal.open_scorer("number"))
    with pytest.raises(UsageError, match="target= is for a scorer"):
        shoal.map(model, rows, target="gold")
    with pytest.raises(UsageError, match=r"shoal\.open_scorer"):
        shoal.map(model, rows, score="number", target="gold")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scorer", "target", "said"),
    [
        ("number", "Paris", "'Paris' has no number"),
        ("choice", "Paris", "'Paris' names no choice"),
        ("choice", 12, "'12'"),
    ],
)
def test_targets_that_nothing_can_equal_are_told_before_anything_is_asked(
    scorer: str, target: object, said: str
) -> None:
    with pytest.raises(UsageError, match=f"row 1, column 'a': {said}"):
        open_scorer(scorer).check_rows([{"a": None}, {"a": target}], "a")
